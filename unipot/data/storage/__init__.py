"""What a store is made of: records, shards, index columns, and reading them straight into batches."""
