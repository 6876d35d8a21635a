"""What apt, pip and npm leave behind when they install something, without a network. Runs as root inside a sandbox."""
import os

STATUS = """Package: hello-delta
Status: install ok installed
Priority: optional
Section: misc
Maintainer: Nobody <nobody@example.org>
Architecture: all
Version: 1.2-3
Description: a package of a test

"""


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as file:
        file.write(text)
    os.chmod(path, mode)


os.makedirs('/var/lib/dpkg', exist_ok=True)
with open('/var/lib/dpkg/status', 'a') as status:
    status.write(STATUS)
write('/usr/bin/hello-delta', '#!/bin/sh\necho hello from apt\n', 0o755)
write('/var/lib/dpkg/info/hello-delta.list', '/.\n/usr\n/usr/bin\n/usr/bin/hello-delta\n')
write('/usr/local/lib/python3/dist-packages/delta_test/__init__.py', 'answer = 42\n')
write('/usr/local/lib/python3/dist-packages/delta_test-0.7.dist-info/METADATA', 'Metadata-Version: 2.1\nName: delta-test\nVersion: 0.7\n')
write('/usr/local/bin/agent-tool', '#!/bin/sh\necho a tool of the agent\n', 0o755)
write('/etc/opt/agent.conf', 'setting = 1\n', 0o600)
os.sync()
