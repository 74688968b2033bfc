"""Code that all stores on a network share."""
