"""Honest judgement of frozen features.

windows    which frames a probe sees          baselines  pixels, frame differences, untrained encoders
probes     linear and k-NN classification     ridge      R² of continuous targets
rank       RankMe                             intervals  Wilson, Newcombe, bootstrap over groups
arms       one table row a way to get features            tables     the table, the plot, the JSON
"""
