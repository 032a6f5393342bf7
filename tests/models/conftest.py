"""Tests of models compare them with torch's."""

import torch

torch.set_num_threads(1)  # its threads wait for one another where other tests use the cores
