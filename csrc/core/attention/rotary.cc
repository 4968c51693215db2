#include "attention/rotary.h"

#include "attention/slots.h"
#include "check.h"
#include "parallel.h"
#include "table.h"

namespace pyengine {

namespace {

// Returns whether there is anything to turn.
bool check(const char* op, const RotaryArgs& a) {
    require(a.width >= 0 && (!a.cosines || a.width % 2 == 0), op, "heads of an odd width");
    require(!a.cosines == !a.sines, op, "cosines and sines come together");
    for (int64_t step : {a.x_picture, a.x_row, a.y_picture, a.y_row})
        require(step >= 0, op, "negative step");
    checked_count(op, a.table_rows, a.width);
    if (checked_count(op, a.pictures, a.rows, a.heads, a.width) == 0) return false;
    require(a.x && a.y && !a.positions != !a.lengths, op, "null pointer");
    return true;
}

void run(const RotaryArgs& a, DType dtype, int threads) {
    const auto turn = table().rotary[dtype];
    parallel_for(a.pictures * a.rows, 1 + 16384 / (a.heads * a.width), threads,
                 [&](int64_t begin, int64_t end) { turn(a, begin, end); });
}

}  // namespace

int64_t rotary(const RotaryArgs& a, DType dtype, int threads) {
    if (!check("rotary", a)) return -1;
    require(a.positions, "rotary", "null pointer positions");
    for (int64_t i = 0; i < a.pictures * a.rows; ++i)
        if (a.positions[i] < 0 || a.positions[i] >= a.table_rows) return i;
    run(a, dtype, threads);
    return -1;
}

int64_t rotary_cache(const RotaryArgs& q, const RotaryArgs& k, const RotaryArgs& v,
                     int64_t cache_rows, int64_t most, DType dtype, int threads) {
    const RotaryArgs* parts[] = {&q, &k, &v};
    bool any = false;
    for (const RotaryArgs* part : parts) any |= check("rotary_cache", *part);
    if (!any) return -1;
    const int64_t places = q.cosines && q.table_rows < most ? q.table_rows : most;
    const int64_t bad = first_bad_slot(k.slots, q.pictures, cache_rows);
    if (bad >= 0) return bad;
    for (int64_t i = 0; i < q.pictures; ++i)
        if (q.lengths[i] < 0 || q.lengths[i] > places - q.rows) return i;
    for (const RotaryArgs* part : parts)
        if (part->heads * part->width > 0) run(*part, dtype, threads);
    return -1;
}

}  // namespace pyengine
