"""The stores of sessions; :mod:`.base` defines what a store is."""
