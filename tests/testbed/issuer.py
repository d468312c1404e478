#!/usr/bin/env python3
"""issuer.py PORT KEY CERTIFICATE: a token service for docker-registry. ci:secret may push and pull, anyone may pull.

Signs with the openssl program, so that the standard library is all it needs.
"""

import base64
import http.server
import json
import subprocess
import sys
import time
import urllib.parse
import uuid

PORT, KEY, CERTIFICATE = int(sys.argv[1]), sys.argv[2], sys.argv[3]


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def der(path):
    return base64.b64encode(subprocess.run(["openssl", "x509", "-in", path, "-outform", "DER"], capture_output=True, check=True).stdout).decode()


X5C = [der(CERTIFICATE)]


def token(claims):
    head = {"typ": "JWT", "alg": "RS256", "x5c": X5C}
    text = b64(json.dumps(head).encode()) + "." + b64(json.dumps(claims).encode())
    signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", KEY], input=text.encode(), capture_output=True, check=True).stdout
    return text + "." + b64(signature)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        header = self.headers.get("Authorization", "")
        user = base64.b64decode(header[6:]).decode() if header.startswith("Basic ") else ""
        if user not in ("", "ci:secret"):
            return self.answer(401, {"details": "wrong credentials"})
        access = []
        for scope in " ".join(query.get("scope", [])).split():
            kind, name, actions = scope.split(":", 2)
            access.append({"type": kind, "name": name, "actions": [one for one in actions.split(",") if user or one == "pull"]})
        now = int(time.time())
        claims = {"iss": "issuer", "sub": user.split(":")[0], "aud": query["service"][0], "exp": now + 60, "nbf": now - 5, "iat": now, "jti": uuid.uuid4().hex, "access": access}
        self.answer(200, {"token": token(claims), "expires_in": 60})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
