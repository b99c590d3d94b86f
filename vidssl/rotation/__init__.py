"""3D rotation between two views of an object never seen before, from depth or from pictures."""
