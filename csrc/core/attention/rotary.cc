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

int64_t rotary_cache(const RotaryCacheArgs& a, int threads) {
    const RotaryArgs q{.x = a.q,
                       .y = a.y,
                       .x_picture = a.q_picture,
                       .x_row = a.q_row,
                       .y_picture = a.rows * a.heads * a.width,
                       .y_row = a.heads * a.width,
                       .cosines = a.cosines,
                       .sines = a.sines,
                       .table_rows = a.table_rows,
                       .positions = nullptr,
                       .lengths = a.lengths,
                       .into_cache = false,
                       .slots = nullptr,
                       .pictures = a.pictures,
                       .rows = a.rows,
                       .heads = a.heads,
                       .width = a.width,
                       .y_dtype = a.dtype};
    RotaryArgs k = q;
    k.x = a.k;
    k.y = a.k_cache;
    k.x_picture = a.k_picture;
    k.x_row = a.k_row;
    k.y_picture = a.k_cache_picture;
    k.y_row = a.k_cache_row;
    k.into_cache = true;
    k.slots = a.slots;
    k.heads = a.kv_heads;
    k.y_dtype = a.cache_dtype;
    RotaryArgs v = k;
    v.x = a.v;
    v.y = a.v_cache;
    v.x_picture = a.v_picture;
    v.x_row = a.v_row;
    v.y_picture = a.v_cache_picture;
    v.y_row = a.v_cache_row;
    v.cosines = v.sines = nullptr;
    const RotaryArgs* parts[] = {&q, &k, &v};
    bool any = false;
    for (const RotaryArgs* part : parts) any |= check("rotary_cache", *part);
    if (!any) return -1;
    const int64_t places = a.cosines && a.table_rows < a.most ? a.table_rows : a.most;
    const int64_t bad = first_bad_slot(a.slots, a.pictures, a.cache_rows);
    if (bad >= 0) return bad;
    for (int64_t i = 0; i < a.pictures; ++i)
        if (a.lengths[i] < 0 || a.lengths[i] > places - a.rows) return i;
    for (const RotaryArgs* part : parts)
        if (part->heads * part->width > 0) run(*part, a.dtype, threads);
    return -1;
}

}  // namespace pyengine
