#include "parallel.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>

#include "parallel_system.h"

// One pool for the process. A caller publishes its loop in a slot; helpers, the pool's threads,
// join it while it has room; everybody takes ranges from one counter until none is left. So a
// helper that the system has not run yet holds nothing up: the others take its share.
// Who waits looks again for a short time, then sleeps in the kernel: OpenMP's threads look for
// milliseconds, and beside other busy processes that is time which their own work needs.
namespace pyengine {

namespace {

using Clock = std::chrono::steady_clock;
using std::memory_order_acq_rel;
using std::memory_order_acquire;
using std::memory_order_relaxed;
using std::memory_order_release;

// How long a helper looks for the next loop, and a caller for its helpers' last ranges, before it
// sleeps: to wake a thread takes some 5 us of the waker and 50 until it runs (on a virtual
// machine), and Python spends less than this between two kernels.
constexpr std::chrono::microseconds kPatience{200};
// After the system has refused a thread, it is asked again only after this time.
constexpr std::chrono::seconds kRefusedFor{1};
// Ranges per thread, so that one that starts late or is interrupted leaves the others enough to do.
constexpr int64_t kRangesPerThread = 4;
// Loops at one time; the callers beyond run theirs alone.
constexpr int kSlots = 64;
constexpr size_t kStack = size_t{2} << 20;

// --- loops ---------------------------------------------------------------------------------------

struct Loop {
    void (*body)(const void*, int64_t, int64_t);
    const void* data;
    int64_t items, ranges;
    uint64_t control;
    int core;      // the caller's
    bool patient;  // whether each of the team can have a core to itself
};

// A place for one loop. state: kOwned while a caller has it, how many helpers may still join, how
// many are inside, and whether the caller sleeps until they have left. Slots live as long as the
// process, so that a late helper may look at one, or wake its caller, at any time.
struct alignas(128) Slot {
    std::atomic<uint32_t> state{0};
    Loop loop{};
    alignas(128) std::atomic<int64_t> next{0};  // range that nobody has taken yet
};

constexpr uint32_t kInside = 1, kInsideMask = (1u << 15) - 1;
constexpr uint32_t kRoom = 1u << 15, kRoomMask = kInsideMask << 15;
constexpr uint32_t kSleeping = 1u << 30, kOwned = 1u << 31;
constexpr int64_t kMostHelpers = kInsideMask;

void run_ranges(Slot& slot) {
    const Loop& loop = slot.loop;
    const int64_t share = loop.items / loop.ranges, rest = loop.items % loop.ranges;
    for (int64_t i; (i = slot.next.fetch_add(1, memory_order_relaxed)) < loop.ranges;) {
        const int64_t begin = i * share + std::min(i, rest);
        loop.body(loop.data, begin, begin + share + (i < rest));
    }
}

// Set in helpers, and in callers within their loop: loops inside loops run on the spot.
thread_local bool inside_loop = false;

// --- the pool ------------------------------------------------------------------------------------

class Pool {
 public:
    void run(const Loop& loop, int helpers);
    int threads() const { return threads_.load(memory_order_relaxed); }

    void before_fork() { starting_.lock(); }
    void after_fork_in_parent() { starting_.unlock(); }
    void after_fork_in_child();

 private:
    Slot* take_slot();
    void wait_for_helpers(Slot& slot);
    void call_helpers(const Slot& slot, int wanted);
    void start_threads(int helpers);
    bool start_thread();
    [[noreturn]] void serve();
    Slot* join();
    static void leave(Slot& slot);

    Slot slots_[kSlots];
    alignas(128) std::atomic<uint32_t> published_{0};  // counts loops; helpers sleep on it
    alignas(128) std::atomic<int> sleeping_{0};        // helpers
    std::atomic<int> threads_{0}, callers_{0};
    std::atomic<int> slots_used_{0};  // all beyond have never been taken
    std::mutex starting_;             // held while threads are started
    std::atomic<int> cores_{0};
    Clock::time_point ask_again_{};  // once the system has refused a thread
};

// Waits until `done()` for at most kPatience, or not at all where not `patient`; returns whether it
// is done.
template <class Done>
bool look_until(bool patient, const Done& done) {
    if (done()) return true;
    if (!patient) return false;
    const Clock::time_point until = Clock::now() + kPatience;
    do {
        for (int i = 0; i < 32; ++i) {
            pause();
            if (done()) return true;
        }
    } while (Clock::now() < until);
    return false;
}

Slot* Pool::take_slot() {
    for (int i = 0; i < kSlots; ++i) {
        uint32_t free = 0;
        if (!slots_[i].state.compare_exchange_strong(free, kOwned, memory_order_acquire)) continue;
        for (int used = slots_used_.load(memory_order_relaxed); used <= i;)
            if (slots_used_.compare_exchange_weak(used, i + 1, memory_order_release)) break;
        return &slots_[i];
    }
    return nullptr;
}

void Pool::run(const Loop& loop, int helpers) {
    Slot* slot = take_slot();
    if (!slot) return loop.body(loop.data, 0, loop.items);
    const int callers = callers_.fetch_add(1, memory_order_relaxed) + 1;
    start_threads(helpers);
    slot->loop = loop;
    slot->loop.patient = callers + helpers <= cores_.load(memory_order_relaxed);
    slot->next.store(0, memory_order_relaxed);
    slot->state.store(kOwned + kRoom * static_cast<uint32_t>(helpers), memory_order_release);
    call_helpers(*slot, helpers);
    inside_loop = true;
    run_ranges(*slot);
    inside_loop = false;
    wait_for_helpers(*slot);
    slot->state.store(0, memory_order_release);
    callers_.fetch_sub(1, memory_order_relaxed);
}

void Pool::wait_for_helpers(Slot& slot) {
    std::atomic<uint32_t>& state = slot.state;
    if (!(state.fetch_and(~kRoomMask, memory_order_acq_rel) & kInsideMask)) return;
    const auto left = [&] { return !(state.load(memory_order_acquire) & kInsideMask); };
    if (look_until(slot.loop.patient, left)) return;
    uint32_t now = state.fetch_or(kSleeping, memory_order_acq_rel) | kSleeping;
    for (; now & kInsideMask; now = state.load(memory_order_acquire)) sleep_while(state, now);
}

// Tells that there is a loop, and wakes as many helpers as are wanted beyond those who look for
// one.
void Pool::call_helpers(const Slot& slot, int wanted) {
    // Sequentially consistent, as sleeping_ in serve(): either this sees that a helper goes to
    // sleep, or the helper sees the new number and does not.
    published_.fetch_add(1);
    const int sleeping = sleeping_.load();
    if (sleeping == 0) return;
    int busy = 0;
    for (int i = 0; i < slots_used_.load(memory_order_acquire); ++i)
        if (&slots_[i] != &slot)
            busy += static_cast<int>(slots_[i].state.load(memory_order_relaxed) & kInsideMask);
    const int looking = std::max(0, threads() - sleeping - busy);
    if (wanted > looking)
        sleeping_.fetch_sub(wake(published_, std::min(sleeping, wanted - looking)));
}

// Callers at the same time get helpers of their own as long as there are cores for them.
void Pool::start_threads(int helpers) {
    const int callers = callers_.load(memory_order_relaxed);
    const auto wanted = [&] {
        const int64_t all = std::min<int64_t>(int64_t{callers} * helpers,
                                              cores_.load(memory_order_relaxed) - callers);
        return std::max<int64_t>(helpers, all);
    };
    if (threads() >= wanted() && cores_.load(memory_order_relaxed)) return;
    const std::lock_guard<std::mutex> lock(starting_);
    cores_.store(cores(), memory_order_relaxed);
    if (threads() >= wanted() || Clock::now() < ask_again_) return;
    while (threads() < wanted())
        if (!start_thread()) {
            ask_again_ = Clock::now() + kRefusedFor;
            return;
        }
}

bool Pool::start_thread() {
    pthread_attr_t how;
    if (pthread_attr_init(&how) != 0) return false;
    pthread_attr_setdetachstate(&how, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&how, kStack);
    sigset_t all, before;  // signals are for the program's own threads
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    const auto serve = [](void* pool) -> void* { static_cast<Pool*>(pool)->serve(); };
    const bool started = pthread_create(&thread, &how, serve, this) == 0;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_attr_destroy(&how);
    if (started) threads_.fetch_add(1, memory_order_relaxed);
    return started;
}

// What a helper does until the process ends.
void Pool::serve() {
    inside_loop = true;
    bool patient = false;
    for (;;) {
        const uint32_t seen = published_.load();
        if (Slot* slot = join()) {
            const uint64_t before = float_control();
            if (slot->loop.control != before) set_float_control(slot->loop.control);
            run_ranges(*slot);
            // On its caller's core a helper that looks for more keeps the caller from calling.
            patient = slot->loop.patient && this_core() != slot->loop.core;
            leave(*slot);
            continue;
        }
        if (look_until(patient, [&] { return published_.load(memory_order_acquire) != seen; }))
            continue;
        patient = false;  // until it has had something to do
        sleeping_.fetch_add(1);
        if (!sleep_while(published_, seen)) sleeping_.fetch_sub(1);  // else the waker did
    }
}

// A loop that still has room and ranges, and the helper in it; null where there is none.
Slot* Pool::join() {
    const int used = slots_used_.load(memory_order_acquire);
    for (int i = 0; i < used; ++i) {
        Slot& slot = slots_[i];
        uint32_t state = slot.state.load(memory_order_relaxed);
        while (state & kRoomMask)
            if (slot.state.compare_exchange_weak(state, state - kRoom + kInside,
                                                 memory_order_acquire, memory_order_relaxed))
                return &slot;
    }
    return nullptr;
}

void Pool::leave(Slot& slot) {
    const uint32_t before = slot.state.fetch_sub(kInside, memory_order_acq_rel);
    if ((before & kSleeping) && (before & kInsideMask) == kInside) wake(slot.state, 1);
}

// The child has the thread that forked, and nothing else: no helpers, no other callers.
void Pool::after_fork_in_child() {
    for (Slot& slot : slots_) slot.state.store(0, memory_order_relaxed);
    sleeping_.store(0);
    threads_.store(0);
    callers_.store(0);
    cores_.store(0);
    ask_again_ = {};
    starting_.unlock();
}

// --- forks ---------------------------------------------------------------------------------------

std::atomic<bool> openmp_in_danger{false}, openmp_lost{false};

// torch's loops run on libgomp, whose threads a child does not have and waits for all the same. A
// thread that forks therefore ends its team first, and both processes start a new one when they
// need it. (Intel's and LLVM's runtimes see to forks themselves.)
void end_openmp_team() {
    constexpr int kHard = 2;  // omp_pause_hard
    Dl_info where{};
    void* parallel = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    if (!parallel || !dladdr(parallel, &where) || !strstr(where.dli_fname, "gomp")) return;
    const auto pause =
        reinterpret_cast<int (*)(int)>(dlsym(RTLD_DEFAULT, "omp_pause_resource_all"));
    openmp_in_danger = !pause || pause(kHard) != 0;
}

Pool& pool() {
    // Never freed: helpers look at it until the process ends.
    static Pool* const one = [] {
        static Pool* made = new Pool;
        pthread_atfork(
            [] {
                end_openmp_team();
                made->before_fork();
            },
            [] { made->after_fork_in_parent(); },
            [] {
                made->after_fork_in_child();
                openmp_lost = openmp_lost || openmp_in_danger;
            });
        return made;
    }();
    return *one;
}

}  // namespace

void survive_forks() {
    pool();
}

int pool_threads() {
    return pool().threads();
}

bool openmp_lost_its_threads() {
    return openmp_lost;
}

void parallel_ranges(int64_t items, int64_t grain, int threads,
                     void (*body)(const void*, int64_t, int64_t), const void* data) {
    if (items <= 0) return;
    const int64_t useful = grain > 0 ? items / grain : items;
    const int64_t team = std::min({useful, int64_t{threads}, kMostHelpers});
    if (team < 2 || inside_loop) return body(data, 0, items);
    const int64_t ranges = std::min(useful, team * kRangesPerThread);
    pool().run({body, data, items, ranges, float_control(), this_core(), true},
               static_cast<int>(team - 1));
}

}  // namespace pyengine
