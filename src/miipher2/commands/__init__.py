"""What the `miipher2` command does, one noun a file; heavy imports wait until a command needs them."""
