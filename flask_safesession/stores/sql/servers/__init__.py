"""Stores in SQL databases on servers: PostgreSQL, MySQL and MariaDB."""
