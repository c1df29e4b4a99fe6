"""Parts of `unipot study`: targets, planned runs, and the process of one run."""
