"""PJSIP as a client: register, refresh, say something, leave. One JSON object a line says what happened.

    pjsip_client.py ANCHOR IDENTITY SECRET LOCAL_ADDRESS LOCAL_PORT TO

TO is where the message goes.
It runs as a program of its own: PJSIP is under the GPL and is no part of the product.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pjsua2 as pj

PATIENCE = 8.0


class Account(pj.Account):  # type: ignore[misc]
    """Keeps what was answered."""

    def __init__(self) -> None:
        super().__init__()
        self.registrations: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []

    def onRegState(self, prm: Any) -> None:  # noqa: N802  (PJSIP's name)
        self.registrations.append(
            {
                "status": prm.code,
                "reason": prm.reason,
                "expires": prm.expiration,
                "answer": prm.rdata.wholeMsg,
            }
        )

    def onInstantMessageStatus(self, prm: Any) -> None:  # noqa: N802
        self.messages.append({"status": prm.code, "reason": prm.reason})


def main(anchor: str, identity: str, secret: str, local: str, port: str, to: str) -> None:
    endpoint = pj.Endpoint()
    endpoint.libCreate()
    settings = pj.EpConfig()
    settings.uaConfig.threadCnt = 0
    settings.uaConfig.mainThreadOnly = True
    settings.uaConfig.userAgent = "PJSIP peer"
    settings.logConfig.level = 5
    settings.logConfig.consoleLevel = 5
    endpoint.libInit(settings)
    transport = pj.TransportConfig()
    transport.port = int(port)
    transport.boundAddress = local
    endpoint.transportCreate(pj.PJSIP_TRANSPORT_UDP, transport)
    endpoint.audDevManager().setNullDev()
    endpoint.libStart()
    account = Account()
    account.create(config(anchor, identity, secret))
    if step(endpoint, "register", account.registrations) != 200:
        endpoint.libDestroy()
        return
    account.setRegistration(True)
    step(endpoint, "refresh", account.registrations)
    say(endpoint, account, to)
    account.setRegistration(False)
    step(endpoint, "unregister", account.registrations)
    account.shutdown()
    endpoint.libDestroy()


def config(anchor: str, identity: str, secret: str) -> Any:
    made = pj.AccountConfig()
    made.idUri = f"sip:{identity}"
    made.regConfig.registrarUri = f"sip:{anchor}"
    made.regConfig.timeoutSec = 300
    made.regConfig.retryIntervalSec = 0
    for name, value in (("X-Long", "x" * 600), ("Subject", 'a, b; c "d" <e>')):
        header = pj.SipHeader()
        header.hName, header.hValue = name, value
        made.regConfig.headers.append(header)
    made.sipConfig.authCreds.append(pj.AuthCredInfo("digest", "*", identity, 0, secret))
    return made


def say(endpoint: Any, account: Account, to: str) -> None:
    """A MESSAGE with JSON."""
    peer = pj.BuddyConfig()
    peer.uri = f"sip:{to}"
    peer.subscribe = False
    buddy = pj.Buddy()
    buddy.create(account, peer)
    text = pj.SendInstantMessageParam()
    text.contentType = "application/json"
    text.content = '{"mType":"NoticeAnswer","version":1,"list":["ä",{}]}'
    buddy.sendInstantMessage(text)
    step(endpoint, "message", account.messages)


def step(endpoint: Any, name: str, answers: list[dict[str, Any]]) -> int:
    """Wait for one more answer and tell it; gives its status."""
    end = time.monotonic() + PATIENCE
    while not answers and time.monotonic() < end:
        endpoint.libHandleEvents(20)
    said: dict[str, Any] = answers.pop(0) if answers else {"status": 0, "reason": "no answer"}
    print("STEP " + json.dumps({"step": name, **said}), flush=True)
    answers.clear()
    status: int = said["status"]
    return status


main(*sys.argv[1:])
