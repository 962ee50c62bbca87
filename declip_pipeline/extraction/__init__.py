"""Stage one: pictures through a frozen backbone into a store, once."""
