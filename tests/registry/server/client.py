"""Requests as anything that speaks HTTP could make them."""

import http.client
import json


def request(server, method, target, *, token=None, body=None, headers=()):
    """One plain request: status, headers, JSON or text."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        sent = dict(headers) | ({"Authorization": f"Bearer {token}"} if token else {})
        connection.request(method, target, body, sent)
        answer = connection.getresponse()
        text = answer.read()
        try:
            return answer.status, answer.headers, json.loads(text)
        except ValueError:
            return answer.status, answer.headers, text.decode()
    finally:
        connection.close()
