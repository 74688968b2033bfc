"""The older places of sessions, a module each. Their drivers are imported when one is opened."""
