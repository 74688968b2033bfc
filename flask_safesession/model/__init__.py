"""Pure values: IDs, records, notes, durations and the bytes of a session."""
