"""The settings of an app, checked, and their changes while it runs."""
