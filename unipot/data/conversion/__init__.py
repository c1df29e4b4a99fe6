"""From any source to a store: parts in worker processes, shards that survive a kill, a last look at the whole."""
