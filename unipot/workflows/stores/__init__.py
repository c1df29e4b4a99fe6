"""From raw files to stores, and from stores to Parquet."""
