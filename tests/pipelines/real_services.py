"""The supervisor over the real servers, with a small code location and a stand-in desk: for the tests."""

from __future__ import annotations

import sys

from pipelines import preflight
from pipelines.services import services
from pipelines.supervisor import Supervisor
from resources.logs import configure

DESK = """
import http.server, os
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status": "ok"}')
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["TAPELINE_DESK_PORT"])), Answer).serve_forever()
"""

if __name__ == "__main__":
    settings, problems = preflight.read_settings()
    assert settings is not None, problems
    configure("supervisor")
    build = lambda own: services(own, "tests.doubles.tiny_location", ("-c", DESK))  # noqa: E731
    sys.exit(Supervisor(settings, main_job=False, build=build).run())
