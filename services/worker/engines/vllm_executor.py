"""One CPU rank of vLLM inside its engine core.

vLLM gives a CPU rank a process of its own, because OpenMP reads its settings from the environment
of a new process. Engine core and rank then hand each step back and forth through shared memory, and
while one of them works, the other asks for its turn without a pause: two busy cores for the work of
one (decision 0017). The engine core is a new process as well: its environment will do
(`set_vllm_environment`).

Several ranks are vLLM's own executor's. On a GPU, vLLM does by itself what this does here.
"""

# pyright: reportMissingImports=false
# (vLLM lives in a virtual environment of its own)

from vllm.v1.executor.uniproc_executor import UniProcExecutor


class InCoreExecutor(UniProcExecutor):
    """vLLM's own of one process, under a name that its CPU platform does not replace by another."""
