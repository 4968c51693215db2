"""One file per op with its peer in torch; table.py measures all of them."""
