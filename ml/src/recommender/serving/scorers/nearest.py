"""Compile the weighted means of neighbourhoods for many pairs at once."""

import numpy as np

from recommender.compiled import compiled

# Bins of similarities: only the bin of the k-th largest is sorted.
_BINS = 128
# Up to this many, insertion sort is faster.
_FEW = 64


@compiled()
def weighted_means(similarity, first, length, near, deviation, k, least):  # type: ignore[no-untyped-def]
    """sum(similarity * deviation) / sum(similarity) over the k most similar of each y, shape (y,).

    `near[first[y]:first[y] + length[y]]` are the x that have a rating together with y, and `deviation` is
    aligned with them; the `similarity` (x,) of each is positive, or 0 to ignore it. Among equal
    similarities the first of `near` count, as in heapq.nlargest. 0 if fewer than `least` are positive.
    """
    mean = np.zeros(len(first))
    longest = 0
    for y in range(len(first)):
        longest = max(longest, length[y])
    weight, bin_, inside = np.empty(longest), np.empty(longest, np.int32), np.empty(longest)
    count, scale = np.empty(_BINS, np.int32), (_BINS - 1) / similarity.max()
    for y in range(len(first)):
        start, n, found = first[y], length[y], 0
        for j in range(n):
            weight[j] = similarity[near[start + j]]
            found += weight[j] > 0
        if min(found, k) < least:
            continue
        limit, equal = 0.0, 0
        if found > k:
            count[:] = 0
            for j in range(n):
                bin_[j] = int(weight[j] * scale)
                count[bin_[j]] += 1
            at, wanted = _BINS - 1, k
            while count[at] < wanted:
                wanted -= count[at]
                at -= 1
            m = 0
            for j in range(n):
                if bin_[j] == at:
                    inside[m] = weight[j]
                    m += 1
            if m > _FEW:
                inside[:m] = -np.sort(-inside[:m])
            else:
                for j in range(1, m):
                    place, one = j, inside[j]
                    while place > 0 and inside[place - 1] < one:
                        inside[place] = inside[place - 1]
                        place -= 1
                    inside[place] = one
            limit = inside[wanted - 1]
            for j in range(wanted):
                equal += inside[j] == limit
        total = whole = 0.0
        for j in range(n):
            counts = weight[j] > limit
            if weight[j] == limit:
                counts = equal > 0
                equal -= 1
            # A product: the processor would mispredict a branch half the time.
            taken = weight[j] * counts
            total += taken * deviation[start + j]
            whole += taken
        mean[y] = total / whole
    return mean
