"""3D rotation between two views of an object never seen before, from depth or from pictures.

>>> estimator = load_estimator("runs/rotation")              # of `vidssl train-rotation`
>>> estimator.estimate(depth_a, depth_b, K).rotation         # float32 [3,3], p_b = R p_a in camera axes
"""

from vidssl.rotation.estimate import Candidate, Estimate, RotationEstimator, estimate_rotation, load_estimator

__all__ = ["Candidate", "Estimate", "RotationEstimator", "estimate_rotation", "load_estimator"]
