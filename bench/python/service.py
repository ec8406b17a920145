# SPDX-License-Identifier: MIT
"""A web service of the standard library's parts, one thread a connection. Prints its port.

  /page?id=N   makes rows, renders them as HTML and JSON, and compresses both
  /burst       makes some 200 MB of small objects, and drops them
  /status      what the process has used so far, as JSON
"""

import html
import http.server
import importlib
import json
import resource
import sys
import threading
import time
import urllib.parse
import zlib

BURST_ROWS = 220000
counted = threading.local()
installed = importlib.import_module(sys.argv[1]).installed if len(sys.argv) > 1 else None
all_counts = []  # a list of one number for each connection there ever was


def rows_of(number, count):
    return [{"id": i, "title": f"row {number * i % 9973}", "price": (number + i) / 8,
             "tags": [f"tag{(number + i * k) % 31}" for k in range(i % 5)],
             "text": "some <text> & more " * (i % 4)} for i in range(count)]


def render(rows):
    lines = ["<!doctype html><title>Rows</title><table>"]
    for row in rows:
        tags = ", ".join(map(html.escape, row["tags"]))
        lines.append(f"<tr><td>{row['id']}<td>{html.escape(row['title'])}<td>{row['price']:.2f}"
                     f"<td>{tags}<td>{html.escape(row['text'])}")
    return "\n".join(lines + ["</table>"])


def page(number):
    """The answer to one request: both forms, compressed."""
    rows = rows_of(number, 60)
    form = {"rows": rows, "html": render(rows), "total": sum(row["price"] for row in rows)}
    return zlib.compress(json.dumps(form).encode(), 1)


def burst():
    """How many objects it was."""
    made = [(row, render([row])) for number in range(BURST_ROWS // 1000) for row in rows_of(number, 1000)]
    return str(len(made)).encode()


def memory_kib(field):
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":"))


def status():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return json.dumps({
        "pages": sum(count for count, in all_counts), "cpu_seconds": time.process_time(),
        "minor_faults": used.ru_minflt, "system_seconds": used.ru_stime,
        "resident_kib": memory_kib("VmRSS"), "peak_kib": memory_kib("VmHWM"),
        "counted_blocks": sys.getallocatedblocks(), "installed": installed}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for head and body: the client need not wait for the second
    disable_nagle_algorithm = True

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/page":
            body = page(int(urllib.parse.parse_qs(query)["id"][0]))
            counted.pages[0] += 1
        else:
            body = {"/burst": burst, "/status": status}[path]()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def setup(self):
        """In the thread of the connection; each has a count of its own, so that none is lost."""
        super().setup()
        counted.pages = [0]
        all_counts.append(counted.pages)

    def log_message(self, *_arguments):
        """Nothing."""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """A load that ends leaves connections behind; all else is an error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main():
    with Server(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
