"""All that is MIMIR's alone: its configurations, data files, scores, metrics and result files.

Duan et al. 2024, Do Membership Inference Attacks Work on Large Language Models?, arXiv:2402.07841.
"""
