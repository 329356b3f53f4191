// Runs a target over its corpus and over mutations of it, the same for the same seed: what
// compilers without a fuzzer can do. `driver CORPUS N_MUTATIONS SEED`, where the corpus is a file
// of inputs in hexadecimal, one a line; or `driver FILE`, which is one input.
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr std::size_t kMostBytes = 1024;

Bytes read(const std::filesystem::path& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

std::vector<Bytes> read_corpus(const std::filesystem::path& path) {
    std::ifstream stream(path);
    std::vector<Bytes> corpus;
    for (std::string line; std::getline(stream, line);) {
        Bytes& bytes = corpus.emplace_back();
        for (std::size_t i = 0; i + 1 < line.size(); i += 2) {
            bytes.push_back(static_cast<std::uint8_t>(std::stoul(line.substr(i, 2), nullptr, 16)));
        }
    }
    return corpus;
}

class Mutator {
  public:
    Mutator(const std::vector<Bytes>& corpus, std::uint64_t seed)
        : corpus_(corpus), random_(seed) {}

    Bytes next() {
        Bytes bytes = corpus_[below(corpus_.size())];
        for (std::size_t i = below(6); i > 0; --i) {
            change(bytes);
        }
        bytes.resize(std::min(bytes.size(), kMostBytes));
        return bytes;
    }

  private:
    // The remainder, not a distribution: those differ between libraries.
    std::size_t below(std::size_t n) { return static_cast<std::size_t>(random_() % n); }

    void change(Bytes& bytes) {
        const std::size_t at = below(bytes.size() + 1);
        const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
        const auto rest = static_cast<std::ptrdiff_t>(below(bytes.size() - at + 1));
        switch (below(6)) {
            case 0:
                bytes.insert(place, static_cast<std::uint8_t>(random_()));
                break;
            case 1:
                bytes.erase(place, place + rest);
                break;
            case 2: {
                const Bytes& other = corpus_[below(corpus_.size())];
                const auto from = static_cast<std::ptrdiff_t>(below(other.size() + 1));
                bytes.insert(place, other.begin() + from, other.end());
                break;
            }
            case 3: {
                const Bytes repeated(place, place + rest);
                bytes.insert(place, repeated.begin(), repeated.end());
                break;
            }
            default:
                if (at < bytes.size()) {
                    bytes[at] = static_cast<std::uint8_t>(random_());
                }
        }
    }

    const std::vector<Bytes>& corpus_;
    std::mt19937_64 random_;
};

// What the target is being given, in memory that outlives the process which it brings down.
class Current {
  public:
    Current() {
        void* mapped = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED) {
            throw std::runtime_error("mmap failed");
        }
        shared_ = new (mapped) Shared();
    }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;
    ~Current() { ::munmap(shared_, sizeof(Shared)); }

    void run(const Bytes& bytes) {
        shared_->size = std::min(bytes.size(), kMostBytes);
        std::ranges::copy_n(bytes.begin(), static_cast<std::ptrdiff_t>(shared_->size),
                            shared_->bytes.begin());
        (void)LLVMFuzzerTestOneInput(shared_->bytes.data(), shared_->size);
    }

    void save(const std::string& path) const {
        std::ofstream stream(path, std::ios::binary | std::ios::trunc);
        stream.write(reinterpret_cast<const char*>(shared_->bytes.data()),
                     static_cast<std::streamsize>(shared_->size));
    }

  private:
    struct Shared {
        std::size_t size = 0;
        std::array<std::uint8_t, kMostBytes> bytes{};
    };

    Shared* shared_ = nullptr;
};

void run_all(Current& current, const std::vector<Bytes>& corpus, std::uint64_t n_mutations,
             std::uint64_t seed) {
    for (const Bytes& bytes : corpus) {
        current.run(bytes);
    }
    Mutator mutator(corpus, seed);
    for (std::uint64_t i = 0; i < n_mutations; ++i) {
        current.run(mutator.next());
    }
    std::printf("%zu inputs and %llu mutations\n", corpus.size(),
                static_cast<unsigned long long>(n_mutations));
}

// Do the work in a child, and keep the input that ends it.
int run_apart(const std::string& kept_in, const std::vector<Bytes>& corpus,
              std::uint64_t n_mutations, std::uint64_t seed) {
    Current current;
    const pid_t child = ::fork();
    if (child == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        run_all(current, corpus, n_mutations, seed);
        std::exit(0);
    }
    int status = -1;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (status == 0) {
        return 0;
    }
    current.save(kept_in);
    std::fprintf(stderr, "a finding: run it again with its input, %s\n", kept_in.c_str());
    return 1;
}

}  // namespace

int main(int n_arguments, char** arguments) {
    if (n_arguments != 2 && n_arguments != 4) {
        std::fprintf(stderr, "usage: %s CORPUS N_MUTATIONS SEED\n       %s FILE\n", arguments[0],
                     arguments[0]);
        return 2;
    }
    const std::vector<Bytes> corpus =
        n_arguments == 4 ? read_corpus(arguments[1]) : std::vector<Bytes>{read(arguments[1])};
    if (corpus.empty()) {
        std::fprintf(stderr, "%s holds no input\n", arguments[1]);
        return 2;
    }
    const std::string name = std::filesystem::path(arguments[0]).filename().string();
    return n_arguments == 4 ? run_apart(name + ".input", corpus, std::stoull(arguments[2]),
                                        std::stoull(arguments[3]))
                            : LLVMFuzzerTestOneInput(corpus.front().data(), corpus.front().size());
}
