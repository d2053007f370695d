"""The ground floor: what training, exporting and serving share. No torch, and none of the other packages."""
