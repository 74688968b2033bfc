"""Where the servers are, and the connections to them."""
