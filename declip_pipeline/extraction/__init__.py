"""Stage one: images through a frozen backbone into a store, once."""
