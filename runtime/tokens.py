"""The token key of a process, from its settings to what signs and checks with it."""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from runtime.failures import SetupError
from runtime.sections import TokenKey
from schema.tokens import TokenAuthority, check_key


def token_authority(token: TokenKey, log: FilteringBoundLogger) -> TokenAuthority:
    """Return who issues and checks tokens, and warn about a weak key.

    Raises:
        SetupError: there is no key, or none that can be used.
    """
    key = token.require_key()
    try:
        warning = check_key(key, allow_short=token.allow_short_key)
    except ValueError as exc:
        raise SetupError(str(exc)) from None
    if warning is not None:
        log.warning(warning)
    return TokenAuthority(key)
