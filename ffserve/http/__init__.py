"""A server of exported models: `ffserve http`. Needs the extra `http`."""
