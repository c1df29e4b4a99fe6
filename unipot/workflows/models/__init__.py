"""Parts of `unipot zoo`: what is said of a model that is published, and tables of what differs between two."""
