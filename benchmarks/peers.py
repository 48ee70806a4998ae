"""The gateways that Galen is compared with, each in front of the mock engine.

Each is installed once, pinned, into a virtual environment of its own. LiteLLM is tuned: with
opentelemetry and httptools installed and all modules compiled it is about twice as fast as plain
`pip install litellm[proxy]` is; the plain one would flatter us. One process each.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.party import DIRECT, LITELLM, NGINX, VLLM_ROUTER, Party
from benchmarks.processes import BenchError, ChildProcesses, Role, require_free_port
from benchmarks.settings import BenchSettings, child_environment

LITELLM_PINS = (
    "litellm[proxy]==1.106.2",
    "httptools==0.9.0",
    "opentelemetry-api==1.45.2",
    "opentelemetry-sdk==1.45.2",
    "opentelemetry-exporter-otlp==1.45.2",
)
VLLM_ROUTER_PINS = (
    "vllm-router==0.1.17",
    "aiohttp==3.14.5",
    "fastapi==0.165.0",
    "uvicorn==0.54.0",
    "orjson==3.13.0",
    "requests==2.34.2",
    "psutil==7.2.2",
    "setproctitle==1.3.8",
)
# LiteLLM refuses to start without a key; its check of it is part of what is measured.
LITELLM_KEY = "sk-bench-local-only-0123456789abcdef0123456789abcdef"

NGINX_CONF = """\
daemon off; master_process off; worker_processes 1;
pid {run}/nginx.pid; error_log {log} warn;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000;
  client_body_buffer_size 2m; client_max_body_size 32m;
  client_body_temp_path {run}/nginx-body; proxy_temp_path {run}/nginx-proxy;
  fastcgi_temp_path {run}/nginx-fcgi; uwsgi_temp_path {run}/nginx-uwsgi;
  scgi_temp_path {run}/nginx-scgi;
  upstream engine {{ server 127.0.0.1:{engine_port}; keepalive 1024; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""
LITELLM_CONF = """\
model_list:
  - model_name: mock
    litellm_params:
      {{model: openai/mock, api_base: "http://127.0.0.1:{engine_port}/v1", api_key: sk-x}}
litellm_settings: {{telemetry: false, request_timeout: 120, num_retries: 0}}
general_settings: {{disable_spend_logs: true}}
router_settings: {{num_retries: 0}}
"""


def start_mock_engine(settings: BenchSettings, children: ChildProcesses) -> Party:
    """Start the engine that the peers stand in front of; measured itself, it is "direct"."""
    port = settings.port_base
    require_free_port(port)
    child = children.start(
        "mock_engine", [settings.folder("bin") / "mock_engine", "--port", str(port)]
    )
    party = Party(DIRECT, "", port, (Role("engine", child.pid),))
    children.wait_until_ready(DIRECT, child, party.url(party.health_path))
    return party


def start_nginx(settings: BenchSettings, children: ChildProcesses) -> Party:
    """Start nginx as a plain reverse proxy; raises BenchError where it is not to be had."""
    program = _nginx_program(settings)
    run, port = settings.folder("run"), settings.port_base + 101
    require_free_port(port)
    config = run / "nginx.conf"
    config.write_text(
        NGINX_CONF.format(
            run=run,
            log=settings.folder("logs") / "nginx.err",
            engine_port=settings.port_base,
            port=port,
        )
    )
    child = children.start(NGINX, [program, "-p", run, "-c", config])
    party = Party(NGINX, _nginx_version(program), port, (Role(NGINX, child.pid),))
    children.wait_until_ready(NGINX, child, party.url("/v1/models"))
    return party


def start_vllm_router(settings: BenchSettings, children: ChildProcesses) -> Party:
    """Start vLLM's router (Rust)."""
    venv = install_venv(settings, "vllm_router", VLLM_ROUTER_PINS)
    port = settings.port_base + 104
    require_free_port(port)
    child = children.start(
        VLLM_ROUTER,
        [
            *(venv / "bin" / "vllm-router", "--host", "127.0.0.1", "--port", str(port)),
            *("--worker-urls", f"http://127.0.0.1:{settings.port_base}"),
            *("--policy", "round_robin", "--log-level", "error"),
            *("--prometheus-port", str(settings.port_base + 154)),
        ],
        cwd=settings.folder("run"),
    )
    version = VLLM_ROUTER_PINS[0].partition("==")[2]
    party = Party(VLLM_ROUTER, version, port, (Role(VLLM_ROUTER, child.pid),))
    children.wait_until_ready(VLLM_ROUTER, child, party.url(party.health_path))
    return party


def start_litellm(settings: BenchSettings, children: ChildProcesses) -> Party:
    """Start LiteLLM's proxy, one worker, tuned."""
    venv = install_venv(settings, "litellm_tuned", LITELLM_PINS, is_compiled=True)
    run, port = settings.folder("run"), settings.port_base + 102
    require_free_port(port)
    config = run / "litellm.yaml"
    config.write_text(LITELLM_CONF.format(engine_port=settings.port_base))
    child = children.start(
        LITELLM,
        [
            *(venv / "bin" / "litellm", "--config", config, "--host", "127.0.0.1"),
            *("--port", str(port), "--num_workers", "1", "--telemetry", "False"),
        ],
        env={
            "LITELLM_LOG": "ERROR",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MASTER_KEY": LITELLM_KEY,
        },
        cwd=run,
    )
    party = Party(
        LITELLM,
        LITELLM_PINS[0].partition("==")[2],
        port,
        (Role(LITELLM, child.pid),),
        loadgen_args=("--auth", LITELLM_KEY),
        health_path="/health/liveliness",
        is_slow=True,
    )
    children.wait_until_ready(LITELLM, child, party.url(party.health_path))
    return party


def install_venv(
    settings: BenchSettings, name: str, pins: Sequence[str], *, is_compiled: bool = False
) -> Path:
    """Return the virtual environment `name` with exactly `pins`, installed anew if they changed."""
    venv = settings.folder("venvs") / name
    marker, wanted = venv / "installed.txt", "\n".join(pins)
    if marker.exists() and marker.read_text() == wanted:
        return venv
    environment = child_environment({"PYTHONDONTWRITEBYTECODE": ""})
    python = venv / "bin" / "python"
    commands: list[list[str | Path]] = [
        [sys.executable, "-m", "venv", venv],
        [python, "-m", "pip", "install", "--quiet", *pins],
    ]
    with (settings.folder("logs") / f"install_{name}.log").open("wb") as log:
        for command in commands:
            done = subprocess.run(command, check=False, env=environment, stdout=log, stderr=log)
            if done.returncode:
                raise BenchError(f"cannot install {name}; see {log.name}")
        if is_compiled:  # some packages hold templates that do not compile: the status says nothing
            compile_all = [python, "-m", "compileall", "-q", venv / "lib"]
            subprocess.run(compile_all, check=False, env=environment, stdout=log, stderr=log)
    marker.write_text(wanted)
    return venv


def _nginx_program(settings: BenchSettings) -> str:
    search = f"{os.defpath}:/usr/sbin:/usr/local/sbin"
    if program := shutil.which(NGINX, path=search):
        return program
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise BenchError("nginx is not installed (Debian: apt install nginx-light)")
    with (settings.folder("logs") / "install_nginx.log").open("wb") as log:
        command = ["apt-get", "install", "-y", "--no-install-recommends", "nginx-light"]
        subprocess.run(command, check=False, stdout=log, stderr=log)
    if program := shutil.which(NGINX, path=search):
        return program
    raise BenchError("nginx could not be installed (Debian: apt install nginx-light)")


def _nginx_version(program: str) -> str:
    shown = subprocess.run([program, "-v"], check=False, capture_output=True, text=True)
    return shown.stderr.rpartition("/")[2].split()[0]
