"""Does to an open file what it is told, and tells what came of it: one line of JSON each way.

It is a process of its own because Node has no mmap, no O_DIRECT buffers and no fallocate, and because whoever uses a file
whose server is killed may have to die with it (SIGBUS).
"""
import base64
import ctypes
import json
import mmap
import os
import sys

PAGE = 4096
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
path = sys.argv[1]
cached = os.open(path, os.O_RDWR)
direct = os.open(path, os.O_RDWR | os.O_DIRECT)
size = os.fstat(cached).st_size


def allocate(mode, offset, length):
    if libc.fallocate(cached, mode, offset, length) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def mapped(offset, length):
    start = offset - offset % PAGE
    return mmap.mmap(cached, offset + length - start, offset=start), offset - start


def write_all(fd, data, offset):
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done


def read_all(fd, length, offset):
    """What comes of a read whose server is killed half-way is no answer: the rest is asked for, and fails."""
    data = b''
    while len(data) < length:
        part = os.pread(fd, length - len(data), offset + len(data))
        if not part:
            raise OSError(5, 'the file ends early')
        data += part
    return data


def holes(offset, length):
    """The ranges within that lseek calls holes, after what is dirty in memory was made known."""
    os.fsync(cached)
    end, found = offset + length, []
    while offset < end:
        try:
            data = min(end, os.lseek(cached, offset, os.SEEK_DATA))
        except OSError as error:
            if error.errno != 6:  # ENXIO: no data up to the end of the file
                raise
            data = end
        if data > offset:
            found.append([offset, data - offset])
        if data >= end:
            break
        offset = os.lseek(cached, data, os.SEEK_HOLE)
        if offset <= data:
            raise OSError(5, 'no hole is found beyond data')
    return found


def perform(kind, offset, length, data):
    if kind == 'read':
        return read_all(cached, length, offset)
    if kind == 'write':
        return write_all(cached, data, offset)
    if kind == 'direct-read':
        room = mmap.mmap(-1, length)
        if os.preadv(direct, [room], offset) != length:
            raise OSError(5, 'a short read')
        return room[:]
    if kind == 'direct-write':
        room = mmap.mmap(-1, length)
        room[:] = data
        if os.pwritev(direct, [room], offset) != length:
            raise OSError(5, 'a short write')
        return None
    if kind == 'map-read':
        view, start = mapped(offset, length)
        return view[start : start + length]
    if kind == 'map-write':
        view, start = mapped(offset, length)
        view[start : start + length] = data
        view.close()
        return None
    if kind == 'punch':
        return allocate(PUNCH_HOLE | KEEP_SIZE, offset, length)
    if kind == 'zero':
        return allocate(ZERO_RANGE | KEEP_SIZE, offset, length)
    if kind == 'forget':
        return os.posix_fadvise(cached, offset, length, os.POSIX_FADV_DONTNEED)
    if kind == 'truncate':
        return os.ftruncate(cached, size)
    if kind == 'fsync':
        return os.fsync(cached)
    if kind == 'holes':
        return holes(offset, length)
    raise ValueError(kind)


for line in sys.stdin:
    wish = json.loads(line)
    answer = {}
    try:
        content = base64.b64decode(wish['data']) if 'data' in wish else None
        result = perform(wish['kind'], wish['offset'], wish['length'], content)
        if isinstance(result, bytes):
            answer['data'] = base64.b64encode(result).decode()
        elif isinstance(result, list):
            answer['holes'] = result
    except OSError as error:
        answer['error'] = str(error)
    print(json.dumps(answer), flush=True)
