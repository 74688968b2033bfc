"""What stores on a network share."""
