"""The proxy before the SuperLink: nginx with TLS that lets through what a site's link needs, and nothing else."""

from pathlib import Path

from server.coordinator_config import CoordinatorConfig
from server.coordinator_folder import CoordinatorFolder
from server.listening import Doors

FLEET_PATHS = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)
"""What flower-supernode 1.41 calls under /v1/fleet/ once its key is enrolled (supernode/fleet_http_connection.py).

Registering and unregistering are the coordinator's, on its own side of the proxy.
"""

LARGEST_REQUEST = "8m"
"""A link cuts objects into pieces of 5 MB; nginx's own 1 MB answers 413, and the link then drops a finished reply."""

TEMPLATE = """# Written by `polyclinic coordinator`; changes here are lost.
daemon off;
pid {scratch}/nginx.pid;
error_log stderr warn;
worker_processes auto;
events {{ worker_connections 1024; }}
http {{
  access_log {logs}/access.log;
  client_body_temp_path {scratch}/body;
  proxy_temp_path {scratch}/proxy;
  fastcgi_temp_path {scratch}/fastcgi;
  uwsgi_temp_path {scratch}/uwsgi;
  scgi_temp_path {scratch}/scgi;
  server_tokens off;
  # Updates pass through memory only, and are never written to the proxy's disk.
  client_max_body_size {largest};
  client_body_buffer_size {largest};
  proxy_max_temp_file_size 0;
  proxy_read_timeout 75s;
  # A link tries again on 502, 503 and 504 only.
  limit_req_zone $binary_remote_addr zone=site:10m rate=200r/s;
  limit_req_status 503;
  limit_conn_zone $binary_remote_addr zone=connections:10m;
  limit_conn_status 503;
  upstream superlink {{
    server {superlink};
    keepalive 32;
  }}
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host $host;
  proxy_ssl_trusted_certificate {ca};
  proxy_ssl_verify on;
  proxy_ssl_name localhost;
  server {{
    listen {listen} ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;
    location / {{ return 404; }}
    location ~ ^/v1/fleet/({paths})$ {{
      limit_except POST {{ deny all; }}
      limit_req zone=site burst=400 nodelay;
      limit_conn connections 64;
      proxy_pass https://superlink;
      # The SuperLink answers 500 where its database was locked for five seconds; told 503, the link tries again.
      proxy_intercept_errors on;
      error_page 500 = @again;
    }}
    location @again {{ return 503; }}
  }}
  server {{
    # The coordinator's own commands: a socket in a folder of its user's alone.
    listen unix:{own};
    location / {{ return 404; }}
    location /v1/control/ {{ proxy_pass https://superlink; }}
  }}
}}
"""


def configuration(folder: CoordinatorFolder, config: CoordinatorConfig, doors: Doors) -> str:
    """Write nginx's configuration for one coordinator; nginx knows the doors that it takes over by their names."""
    return TEMPLATE.format(
        scratch=folder.proxy.resolve(),
        logs=folder.logs.resolve(),
        largest=LARGEST_REQUEST,
        superlink=f"{config.superlink.host}:{config.superlink.port}",
        listen=doors.listen,
        own=doors.own_name,
        certificate=folder.server_certificate.resolve(),
        key=folder.server_key.resolve(),
        ca=folder.ca.resolve(),
        paths="|".join(FLEET_PATHS),
    )


def command(nginx: str, configuration_file: Path) -> list[str]:
    """Say how the proxy is started; it stays in the foreground."""
    return [nginx, "-e", "stderr", "-c", str(configuration_file)]
