"""Sessions in MongoDB: the engine over documents, in transactions of a replica set."""
