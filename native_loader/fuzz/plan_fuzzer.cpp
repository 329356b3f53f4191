// Loads of odd plans from odd files by one loader, several at once, while files change, system
// calls fail, chunks move and loads are cancelled. Whatever happens, every load ends, with the
// right bytes or a typed error of its own, and every chunk comes back.
#include <algorithm>
#include <memory>
#include <new>
#include <optional>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "ended_loads.hpp"
#include "held_chunks.hpp"
#include "input.hpp"
#include "odd_device.hpp"
#include "odd_files.hpp"
#include "odd_plan.hpp"
#include "pilotlight/native/crc32c.hpp"
#include "pilotlight/native/error.hpp"
#include "pilotlight/native/loader.hpp"
#include "system_calls.hpp"
#include "verdict.hpp"

using namespace pilotlight::native;

namespace {

using fuzz::require;
using fuzz::Submitted;

constexpr Seconds kDeadline{20};
constexpr std::size_t kMostLoads = 12;

std::size_t pages(std::uint64_t length) {
    return static_cast<std::size_t>((length + kDirectAlignment - 1) / kDirectAlignment);
}

DiskSettings odd_settings(fuzz::Input& input) {
    return {.n_readers = 1 + input.below(3),
            .depth = 1 + input.below(3),
            .block_bytes = kDirectAlignment * (1 + input.below(3))};
}

class World {
  public:
    explicit World(fuzz::Input& input)
        : input_(input),
          chunk_bytes_(kDirectAlignment * (1 + input.below(4))),
          pool_(std::make_shared<ChunkPool>(1 + input.below(12), chunk_bytes_)),
          chunks_(pool_),
          odd_device_(std::make_shared<fuzz::OddDevice>(input.byte(), input.byte() % 2 == 0)),
          device_(odd_device_) {
        const std::size_t n_files = 1 + input.below(4);
        for (std::size_t i = 0; i < n_files; ++i) {
            files_.emplace_back(input, i);
        }
        faults_.emplace(fuzz::odd_faults(input, 4));
        loader_ = std::make_unique<Loader>(pool_, odd_settings(input));
    }

    void step() {
        switch (input_.byte() % 16) {
            case 0:
            case 1:
                chunks_.allocate(input_);
                break;
            case 2:
            case 3:
                chunks_.move(input_);
                break;
            case 4:
                cancel();
                break;
            case 5:
                promote();
                break;
            case 6:
                wait();
                break;
            case 7:
            case 8:
                change_file();
                break;
            case 9:
                note_finished();
                break;
            case 10:
                configure();
                break;
            case 11:
                close();
                break;
            default:
                submit();
        }
        chunks_.check();
    }

    void end() {
        for (Submitted& each : submitted_) {
            if (input_.one_in(4)) {
                cancel(each);
            }
        }
        for (const Submitted& each : submitted_) {
            require(each.load->wait(kDeadline), "every load ends");
        }
        note_finished();
        loader_->close();
        require(loader_->finished().empty(), "an end is announced once");
        for (const Submitted& each : submitted_) {
            require(each.is_announced, "every end is announced");
            check(each);
        }
        loader_.reset();
        faults_.reset();
        chunks_.release_all();
        pool_->close();
    }

  private:
    void submit() {
        if (submitted_.size() == kMostLoads) {
            return;
        }
        fuzz::OddPlan odd = fuzz::odd_plan(input_, files_, chunks_, chunk_bytes_, device_);
        const bool may_be_refused =
            is_closed_ || !fuzz::makes_sense(odd.plan, chunk_bytes_) || !has_all_chunks(odd.plan);
        const bool is_inside = fuzz::is_inside(odd.plan, chunk_bytes_);
        if (is_inside && breaks_contract(odd.plan)) {
            return;
        }
        Submitted fresh{
            .load = nullptr, .odd = std::move(odd), .resident = {}, .must_succeed = false};
        try {
            fresh.must_succeed = is_inside && can_succeed(fresh.odd);
            fresh.resident = is_inside ? held_by_resident(fresh.odd.plan)
                                       : std::vector<std::vector<std::byte>>{};
            fresh.load = loader_->submit(fresh.odd.plan);
        } catch (const Error&) {
            require(may_be_refused || faults_->has_done_harm(), "a plan that makes sense is taken");
            return;
        } catch (const std::invalid_argument&) {
            require(may_be_refused, "a plan that makes sense is taken");
            return;
        }
        require(is_inside && !is_closed_, "a plan that leaves its places is refused");
        use_chunks(fresh);
        submitted_.push_back(std::move(fresh));
    }

    // What the loader leaves to its callers: places that are shared belong to one load each.
    [[nodiscard]] bool breaks_contract(const LoadPlan& plan) const {
        std::set<std::pair<ChunkIndex, std::size_t>> taken;
        return plan.staging.empty() &&
               std::ranges::any_of(plan.chunks, [&](const ChunkPlan& chunk) {
                   return is_shared(chunk) && chunk.target < chunks_.n_chunks() &&
                          !can_share(chunk, taken);
               });
    }

    [[nodiscard]] bool can_share(const ChunkPlan& chunk,
                                 std::set<std::pair<ChunkIndex, std::size_t>>& taken) const {
        const std::size_t first = chunk.target_offset / kDirectAlignment;
        bool is_new = true;
        for (std::size_t page = first; page < first + pages(chunk.length); ++page) {
            is_new = taken.emplace(chunk.target, page).second && is_new;
        }
        return is_new && !chunks_.is_shared(chunk.target, first, pages(chunk.length));
    }

    [[nodiscard]] static bool is_shared(const ChunkPlan& chunk) {
        return chunk.is_shared || chunk.is_resident;
    }

    // Whether every chunk that the plan wants is certainly the caller's to give.
    [[nodiscard]] bool has_all_chunks(const LoadPlan& plan) const {
        std::vector<ChunkIndex> whole = plan.staging;
        std::vector<ChunkIndex> shared;
        for (const ChunkPlan& chunk : plan.chunks) {
            if (plan.staging.empty()) {
                (is_shared(chunk) ? shared : whole).push_back(chunk.target);
            }
        }
        std::ranges::sort(whole);
        const auto is_idle = [&](ChunkIndex chunk) {
            return !chunks_.is_used(chunk, 0, pages(chunk_bytes_));
        };
        return std::ranges::adjacent_find(whole) == whole.end() &&
               std::ranges::all_of(whole,
                                   [&](ChunkIndex chunk) {
                                       return chunk < chunks_.n_chunks() &&
                                              chunks_.is_cached(chunk) && is_idle(chunk);
                                   }) &&
               std::ranges::all_of(shared, [&](ChunkIndex chunk) {
                   return chunk < chunks_.n_chunks() && chunks_.is_held(chunk) && is_idle(chunk) &&
                          !std::ranges::binary_search(whole, chunk);
               });
    }

    [[nodiscard]] bool can_succeed(const fuzz::OddPlan& odd) const {
        return fuzz::can_be_read(odd, files_) &&
               std::ranges::all_of(odd.plan.chunks, [&](const ChunkPlan& chunk) {
                   return chunk.is_resident || !chunk.expected_crc32c ||
                          *chunk.expected_crc32c == crc32c(fuzz::bytes_of(odd, chunk, files_));
               });
    }

    [[nodiscard]] std::vector<std::vector<std::byte>> held_by_resident(const LoadPlan& plan) const {
        std::vector<std::vector<std::byte>> held(plan.chunks.size());
        for (std::size_t i = 0; i < held.size(); ++i) {
            const ChunkPlan& chunk = plan.chunks[i];
            const bool is_still = chunk.target < chunks_.n_chunks() &&
                                  !chunks_.is_used(chunk.target, 0, pages(chunk_bytes_));
            if (chunk.is_resident && is_still) {
                const auto place = fuzz::placed(*pool_, chunk);
                held[i].assign(place.begin(), place.end());
            }
        }
        return held;
    }

    void use_chunks(const Submitted& fresh) {
        for (const ChunkIndex chunk : fresh.odd.plan.staging) {
            chunks_.use(chunk, 0, pages(chunk_bytes_), fresh.load, false);
        }
        for (const ChunkPlan& chunk : fresh.odd.plan.chunks) {
            if (!fresh.odd.plan.staging.empty()) {
                break;
            }
            const bool shares = is_shared(chunk);
            chunks_.use(chunk.target, shares ? chunk.target_offset / kDirectAlignment : 0,
                        pages(shares ? chunk.length : chunk_bytes_), fresh.load, shares);
        }
    }

    void cancel() {
        if (!submitted_.empty()) {
            cancel(submitted_[input_.below(submitted_.size())]);
        }
    }

    void cancel(Submitted& submitted) {
        loader_->cancel(submitted.load);
        submitted.is_cancelled = true;
    }

    void promote() {
        if (!submitted_.empty()) {
            loader_->promote(*submitted_[input_.below(submitted_.size())].load,
                             static_cast<std::int64_t>(input_.number(8)));
        }
    }

    void wait() {
        if (!submitted_.empty()) {
            const Submitted& some = submitted_[input_.below(submitted_.size())];
            require(some.load->wait(kDeadline), "every load ends");
            check(some);
        }
    }

    // From now on loads that read it may fail.
    void change_file() {
        const std::size_t index = input_.below(files_.size());
        for (Submitted& each : submitted_) {
            each.must_succeed = each.must_succeed && (each.load->is_done() ||
                                                      !std::ranges::count(each.odd.files, index));
        }
        files_[index].change(input_);
    }

    void configure() {
        const fuzz::OddFile& file = files_[input_.below(files_.size())];
        loader_->configure(file.versions().back().identity.device, odd_settings(input_));
    }

    void close() {
        if (input_.one_in(8)) {
            loader_->close();
            is_closed_ = true;
            for (const Submitted& each : submitted_) {
                require(each.load->is_done(), "closing ends every load");
            }
        }
    }

    void note_finished() {
        for (const std::shared_ptr<Load>& load : loader_->finished()) {
            const auto found = std::ranges::find(submitted_, load, &Submitted::load);
            require(found != submitted_.end() && !found->is_announced, "an end is announced once");
            found->is_announced = true;
        }
    }

    void check(const Submitted& ended) const {
        try {
            fuzz::check_success(ended, files_, chunks_, *pool_);
            return;
        } catch (const LoadCancelled&) {
            require(ended.is_cancelled || is_closed_, "only who asked for it is cancelled");
            return;
        } catch (const DeviceFailed&) {
            require(odd_device_->has_failed(), "only a device that failed is said to have failed");
            return;
        } catch (const ReadFailed&) {
        } catch (const FileChanged&) {
        } catch (const ChecksumMismatch&) {
        } catch (const MemoryRefused&) {
            require(faults_->has_done_harm(), "there was memory");
            return;
        } catch (const DeviceMemoryRefused&) {
            require(faults_->has_done_harm(), "there was memory");
            return;
        } catch (const std::bad_alloc&) {
            require(faults_->has_done_harm(), "there was memory");
            return;
        }
        require(!ended.must_succeed || faults_->has_done_harm(), "what can be read is read");
    }

    fuzz::Input& input_;
    const std::size_t chunk_bytes_;
    const std::shared_ptr<ChunkPool> pool_;
    fuzz::HeldChunks chunks_;
    const std::shared_ptr<fuzz::OddDevice> odd_device_;
    const std::shared_ptr<Device> device_;
    std::vector<fuzz::OddFile> files_;
    std::optional<fuzz::ArmedFaults> faults_;
    std::unique_ptr<Loader> loader_;
    bool is_closed_ = false;
    std::vector<Submitted> submitted_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    try {
        World world(input);
        while (!input.is_empty()) {
            world.step();
        }
        world.end();
    } catch (const MemoryRefused&) {
        // An odd memory was refused to the world itself.
    }
    return 0;
}
