"""Any number of images in parts, each answered by a session somewhere on a cluster and written as a file of its own.

`storage` reads and writes places, here or by URL; `finding` tells what images there are, `looking` what tells whether
they changed; `job` is the folder that the answers go into; `answers` makes rows of a part's outputs; `work` does a
part, `seal` tells whether its file is whole; `engine` hands parts to Ray. This package needs the extra `ray`.
"""
