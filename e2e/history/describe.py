"""One JSON line for each file below the folders, with all that must survive. Runs as root inside a sandbox.

usage: describe.py FOLDER...
"""
import hashlib
import json
import os
import stat
import sys

links = {}


def text(raw):
    return raw.decode('utf-8', 'backslashreplace')


def describe(path):
    found = os.lstat(path)
    kind = stat.S_IFMT(found.st_mode)
    entry = {
        'path': text(path),
        'kind': oct(kind),
        'mode': oct(stat.S_IMODE(found.st_mode)),
        'owner': [found.st_uid, found.st_gid],
        'mtime': found.st_mtime_ns,
        'xattrs': {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in sorted(os.listxattr(path, follow_symlinks=False))},
    }
    if kind == stat.S_IFLNK:
        entry['target'] = text(os.readlink(path))
    if kind == stat.S_IFREG:
        entry['size'] = found.st_size
        digest = hashlib.sha256()
        with open(path, 'rb') as file:
            while block := file.read(1 << 20):
                digest.update(block)
        entry['sha256'] = digest.hexdigest()
        # Names of one file share the first of them.
        entry['same'] = links.setdefault((found.st_dev, found.st_ino), entry['path'])
        # A hole of a megabyte that is written out would fill a disk.
        entry['sparse'] = found.st_blocks * 512 < found.st_size - (1 << 20)
    return entry


for root in sys.argv[1:]:
    raw = os.fsencode(root)
    if not os.path.lexists(raw):
        continue
    print(json.dumps(describe(raw), sort_keys=True))
    for parent, folders, files in os.walk(raw):
        folders.sort()
        for name in sorted(folders + files):
            print(json.dumps(describe(os.path.join(parent, name)), sort_keys=True))
