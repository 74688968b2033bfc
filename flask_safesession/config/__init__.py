"""What an app asked for, checked, and what changes while it runs."""
