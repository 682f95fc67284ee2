"""Vector indexes: exported to Parquet, rebuilt from stored embeddings."""
