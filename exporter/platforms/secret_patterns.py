"""Where secrets stand in a configuration: patterns with exactly one group, the secret.

NAPALM's own sanitising leaks `enable algorithm-type scrypt secret`, plain `username` and `enable`
passwords, `server-private ... key`, IKEv2 `pre-shared-key`, `ip ftp password`, `ntp
authentication-key` and SNMPv3 `auth ... priv ...`; all of them are here.
"""

_PRIVATE_KEY = r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s([^-]+)-----END"

CISCO = (
    r"^[ \t]*enable (?:algorithm-type \S+ )?(?:secret|password)(?: level \d+)?"
    r"(?: (?:\d|sha512))? (\S+)",
    r"^[ \t]*username \S+ (?:.* )?(?:secret|password)(?: (?:\d{1,2}|sha512))? (\S+)",
    r"^[ \t]*aaa root secret(?: \d)? (\S+)",
    r"^[ \t]*snmp-server community (?:(?:encrypted|clear) )?(\S+)",
    r"^[ \t]*snmp-server host \S+(?: vrf \S+)?(?: (?:informs|traps))?"
    r"(?: version (?:1|2c|3(?: (?:auth|noauth|priv))?))? (\S+)",
    r"^[ \t]*snmp-server user .* auth (?:encrypted )?(?:md5|sha)(?:[ -]\d+)? (\S+)",
    r" priv (?:(?:des|3des|aes)(?:[ -]?\d+)? )?(?!localizedkey)(\S+)"
    r"(?= localizedkey|[ \t]*$| access)",
    r"^[ \t]*(?:tacacs-server|radius-server) (?:.* )?key(?: \d)? (\S+)",
    r"^[ \t]+server-private \S+ .*key(?: \d)? (\S+)",
    # The number of a key chain's key is no secret.
    r"^[ \t]+key [05678] (\S+)[ \t]*$",
    r"^[ \t]+key (?!\d+[ \t]*$)(\S+)[ \t]*$",
    r"^[ \t]*key-string(?: \d)? (\S+)",
    r"^[ \t]*crypto isakmp key(?: \d)? (\S+)",
    r"^[ \t]*(?:ikev\d )?pre-shared-key(?: (?:local|remote))?(?: (?:\d|ascii-text|hex))? (\S+)",
    r"^[ \t]*ip ftp password(?: \d)? (\S+)",
    r"^[ \t]*ntp authentication-key \d+ \S+ (\S+)",
    r"^[ \t]+ip ospf (?:message-digest-key \d+ md5|authentication-key)(?: \d)? (\S+)",
    r"^[ \t]+neighbor \S+ password(?: \d)? (\S+)",
    r"^[ \t]+(?:password|secret)(?: (?:\d{1,2}|encrypted))? (\S+)",
    r"^[ \t]+(?:vrrp|standby|glbp) \d+ authentication (?:text |md5 key-string )?(?:\d )?(\S+)",
    r"^[ \t]+ppp (?:chap|pap) .*password(?: \d)? (\S+)",
    r"wpa-psk ascii(?: \d)? (\S+)",
    _PRIVATE_KEY,
)
BRACED = (
    # What Junos hashes or hides: $1$, $5$, $6$, $8$, $9$.
    r'"(\$[1-9]\$[^"\n]+)"',
    r"^[ \t]+community ([^\s;\[]+)(?: \{|;)",
    r"(?:secret|ascii-text|authentication-key|password|plaintext-password|pre-shared-secret)"
    r' "?([^\s";{]+)"?;?[ \t]*$',
    _PRIVATE_KEY,
)
FORTIOS = (
    r"^[ \t]*set (?:\S*password|passwd|\S*secret|psksecret|key|auth-pwd|priv-pwd)"
    r' "?((?:ENC )?[^\s"]+)',
    r'^[ \t]*set private-key "([^"]+)"',
)
HUAWEI = (
    r"(?:password|cipher|simple|irreversible-cipher|hash) (\S{6,})[ \t]*$",
    r"(?:irreversible-cipher|cipher|simple|hash) (\S+)",
    r"snmp-agent community (?:read|write) (?:cipher )?(\S+)",
)
SROS = (
    r'(?:password|secret|authentication-key|auth-key) "([^"]+)"',
    r'community "([^"]+)"',
)
XML = (
    r"<(?:phash|password|secret|key|pre-shared-key|private-key|(?:auth|priv)-password)>([^<]+)<",
    r"<snmp-community-string>([^<]+)<",
)
ROS = (r"(?:password|secret|passphrase|pre-shared-key|wpa2?-pre-shared-key)=(\"[^\"]*\"|\S+)",)
PROCURVE = (
    r"^[ \t]*password \S+ (?:user-name \S+ )?(?:plaintext|sha1|sha-256) (\S+)",
    r'^[ \t]*snmp-server community "?([^"\s]+)',
    r"^[ \t]*(?:radius|tacacs)-server (?:.* )?key (\S+)",
)
