"""What `galen adapters check` does: the worker's own checks of an adapter, without a worker."""

from pathlib import Path

from modeling.adapter_files import MANIFEST_FILE, AdapterError, adapted_modules, open_adapter
from modeling.checkpoint_files import CheckpointError, open_checkpoint, sampled_fingerprint
from services.launcher.terminal import CommandError


def check_adapter(path: Path, base_path: Path, max_rank: int) -> list[str]:
    """Return what was verified, a line each.

    Raises:
        CommandError: a worker would refuse the adapter, or the base.
    """
    path, base_path = path.resolve(), base_path.resolve()
    try:
        base = open_checkpoint(base_path)
        fingerprint = sampled_fingerprint(base)
        adapter = open_adapter(path, base, base_path.name, max_rank, lambda: fingerprint)
    except (AdapterError, CheckpointError) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{base_path} is not readable ({type(error).__name__})") from error
    modules = adapted_modules(adapter.tensors)
    kinds = sorted({module.rpartition(".")[2] for module in modules})
    verified = (
        f"base: verified, {MANIFEST_FILE} names its fingerprint"
        if adapter.is_base_verified
        else f"base: unverified, it fits by its shapes only; to verify it, write "
        f'"base_fingerprint": "{fingerprint}" into {MANIFEST_FILE}'
    )
    return [
        f"{path}: a worker takes it",
        f"name: {adapter.served_id} (where the base is served as {base_path.name!r})",
        f"rank: {adapter.rank}, of at most {max_rank}",
        f"modules: {len(modules)}, all in the base and of its shapes ({', '.join(kinds)})",
        verified,
    ]
