"""Random changes to files: every kind, odd names, all that a layer must carry. Runs as root inside a sandbox.

usage: change.py SEED COUNT FOLDER...
"""
import errno
import os
import random
import shutil
import stat
import sys

seed, count, roots = int(sys.argv[1]), int(sys.argv[2]), [os.fsencode(path) for path in sys.argv[3:]]
dice = random.Random(seed)
ODD = [
    'plain', 'with space', '-dash', '.hidden', 'new\nline', 'tab\there', 'quote"\'', 'back\\slash', '日本語', 'é', 'é', '\U0001f600',
    '.wh.', '.wh..wh..opq', '.wh.plain', '*', '$(id)', '%s', ' ', '...', 'x' * 255, 'ü' * 127,
]
RAW = [b'\xff\xfe', b'latin-\xe9', b'\x01\x7f']


def name():
    if dice.random() < 0.6:
        return b'n%d' % dice.randrange(40)
    if dice.random() < 0.9:
        return os.fsencode(dice.choice(ODD))
    return dice.choice(RAW)


def walk():
    """Folders and all other entries below the roots."""
    folders, entries = [], []
    for root in roots:
        os.makedirs(root, exist_ok=True)
        for parent, inner, files in os.walk(root):
            folders.append(parent)
            entries += [os.path.join(parent, one) for one in files]
            entries += [os.path.join(parent, one) for one in inner if os.path.islink(os.path.join(parent, one))]
    return folders, entries


def content():
    size = dice.choice([0, 1, 511, 512, 513, 4095, 4096, 70_000, 1_000_000])
    return dice.randbytes(size) if dice.random() < 0.5 else b'delta ' * (size // 6)


def is_file(path):
    return stat.S_ISREG(os.lstat(path).st_mode)


def free(path):
    if os.path.islink(path) or not os.path.isdir(path):
        if os.path.lexists(path):
            os.unlink(path)
    else:
        shutil.rmtree(path)


def write(path):
    free(path)
    with open(path, 'wb') as file:
        file.write(content())


def sparse(path):
    free(path)
    with open(path, 'wb') as file:
        for _ in range(dice.randrange(1, 4)):
            file.seek(dice.randrange(0, 3_000_000), os.SEEK_CUR)
            file.write(dice.randbytes(dice.choice([1, 4096, 9_000])))
        if dice.random() < 0.5:
            file.truncate(file.tell() + dice.randrange(0, 1_000_000))


def step(folders, entries):
    kind = dice.randrange(20)
    folder = dice.choice(folders)
    path = os.path.join(folder, name())
    if len(path) > 3_000:
        return
    old = dice.choice(entries) if entries else None
    if kind <= 3:
        if path not in roots:
            write(path)
    elif kind == 4:
        sparse(path)
    elif kind == 5 and old and is_file(old):
        with open(old, 'ab') as file:
            file.write(content()[:5_000])
    elif kind == 6 and old and is_file(old):
        os.truncate(old, dice.randrange(0, 10_000))
    elif kind == 7 and old and is_file(old) and os.path.getsize(old):
        with open(old, 'r+b') as file:
            file.seek(dice.randrange(0, os.path.getsize(old)))
            file.write(b'changed')
    elif kind == 8:
        os.chmod(old if old and not os.path.islink(old) else folder, dice.choice([0o600, 0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o000, 0o6711]))
    elif kind == 9:
        os.chown(old or folder, dice.choice([0, 1000, 33, 65_534]), dice.choice([0, 1000, 100]), follow_symlinks=False)
    elif kind == 10:
        os.utime(old or folder, ns=(0, dice.randrange(0, 2_000_000_000_000_000_000)), follow_symlinks=False)
    elif kind == 11:
        free(path)
        os.symlink(dice.choice([b'n1', b'/etc/passwd', b'../..', b'nowhere', b'x' * 1_000, os.fsencode('日本語')]), path)
    elif kind == 12 and old and is_file(old) and old != path:
        free(path)
        os.link(old, path)
    elif kind == 13 and old and old != path and not os.path.isdir(path):
        os.rename(old, path)
    elif kind == 14 and old:
        os.unlink(old)
    elif kind == 15:
        if not os.path.lexists(path) and path.count(b'/') < 12:
            os.mkdir(path)
    elif kind == 16 and folder not in roots and dice.random() < 0.4:
        free(folder)
        if dice.random() < 0.7:
            # The same name again, as a folder without what it had, or as a file.
            os.mkdir(folder) if dice.random() < 0.7 else write(folder)
        return True
    elif kind == 17 and old and is_file(old):
        os.setxattr(old, 'user.' + dice.choice(['one', 'two', 'ünï']), dice.randbytes(dice.choice([0, 1, 200])))
    elif kind == 18:
        free(path)
        os.mkfifo(path, 0o640)
    elif kind == 19 and old and is_file(old) and dice.random() < 0.3:
        # cap_net_bind_service, permitted and effective, as setcap writes it.
        os.setxattr(old, 'security.capability', bytes.fromhex('0100000200040000000000000000000000000000'))
    return kind in (3, 13, 15)


done = failed = 0
folders, entries = walk()
while done < count:
    try:
        stale = step(folders, entries)
    except OSError as error:
        # The list of what is there is a few steps old: a folder may be gone, or be a link by now, to itself or to a name that is too long.
        # Two folders may lie on different file systems. gVisor has no attributes on these files; where there are some, describe.py sees every one.
        gone = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EXDEV, errno.EOPNOTSUPP, errno.ELOOP, errno.ENAMETOOLONG)
        if error.errno not in gone:
            raise
        failed += 1
        stale = True
    done += 1
    if stale or done % 20 == 0:
        folders, entries = walk()
os.sync()
print(f'{done} steps, {failed} of them on what was gone or elsewhere, {len(folders)} folders, {len(entries)} entries')
