"""Training: one loop; what differs between pretraining and what comes after it is the data and the loss.

On a CPU the shim for Megatron-Core is in place before any module here imports it.
"""

from athanor.models.megatron_cpu import install

install()
