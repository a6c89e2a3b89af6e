#include "engine/kv_store/block_file.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <fstream>

#include "engine/prefix_index.hpp"

namespace troupe::engine {
namespace {

constexpr std::size_t payload_bytes = 192;
constexpr std::uint32_t block_tokens = 4;
constexpr std::uint64_t header_bytes = 4096, record_bytes = 8192;

struct block_file_test : ::testing::Test {
  void SetUp() override {
    // In memory where the system has such a place: some tests make the file thousands of times.
    const std::filesystem::path shm = "/dev/shm";
    const auto root =
        ::access(shm.c_str(), W_OK) == 0 ? shm : std::filesystem::temp_directory_path();
    std::string name = (root / "troupe-kv-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory = name;
    path = directory / "store.kv";
  }
  void TearDown() override {
    file.reset();
    std::filesystem::remove(path);
    std::filesystem::remove_all(directory);
  }
  block_file_options options(std::uint32_t records) const {
    return {payload_bytes, block_tokens, identity, "model tiny",
            header_bytes + records * record_bytes};
  }
  void open(std::uint32_t records = 3) {
    file.reset();
    auto opened = block_file::open(path, options(records));
    ASSERT_TRUE(opened) << to_string(opened.error());
    file = std::move(*opened);
  }
  static block_key key(std::uint32_t n) {
    const std::vector<token_id> tokens{n, n + 1, n + 2, n + 3};
    return {chain_hash({7, 7}, tokens), {7, 7}, tokens, 0, 4};
  }
  static std::vector<std::byte> payload(std::uint32_t n) {
    std::vector<std::byte> bytes(payload_bytes);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(n * 31 + i);
    return bytes;
  }
  bool write(std::uint32_t n) { return write(key(n), n); }
  bool write(const block_key& k, std::uint32_t n) {
    const auto r = file->claim(k);
    if (!r) return false;
    const auto ok = file->write(*r, k, file->sequence(*r), payload(n));
    EXPECT_TRUE(ok) << to_string(ok.error());
    file->written(*r, ok.has_value());
    return true;
  }
  // Nothing, or exactly the bytes that were written for n.
  bool has(std::uint32_t n) {
    must_erase.reset();
    const auto r = file->find(key(n).hash, key(n).parent, key(n).tokens);
    if (!r) return false;
    file->hold(*r);
    std::vector<std::byte> found(payload_bytes);
    const block_file::read_piece piece{*r, key(n).hash, found};
    const bool ok = file->read_many({&piece, 1})[0].has_value();
    must_erase = file->unhold(*r, ok) ? r : std::nullopt;
    if (ok) {
      EXPECT_EQ(found, payload(n));
    }
    return ok;
  }
  std::filesystem::path directory, path;
  hash128_t identity{3, 4};
  std::optional<record_id> must_erase;  // said by the last has()
  std::unique_ptr<block_file> file;
};

TEST_F(block_file_test, blocks_survive_the_process) {
  open();
  EXPECT_TRUE(write(1));
  EXPECT_TRUE(write(2));
  EXPECT_FALSE(write(2));  // it is there
  EXPECT_TRUE(has(1));
  open();
  EXPECT_EQ(file->stats().recovered, 2u);
  EXPECT_TRUE(has(1));
  EXPECT_TRUE(has(2));
  EXPECT_FALSE(has(3));
  EXPECT_FALSE(file->find(key(1).hash, key(1).parent, key(2).tokens));
  EXPECT_FALSE(file->find(key(1).hash, key(2).hash, key(1).tokens));
}

TEST_F(block_file_test, it_stays_within_its_bytes_and_passes_over_what_was_used) {
  open(3);
  for (std::uint32_t n : {1u, 2u, 3u}) EXPECT_TRUE(write(n));
  EXPECT_TRUE(has(1));
  EXPECT_TRUE(write(4));
  EXPECT_TRUE(has(1));
  EXPECT_FALSE(has(2));
  EXPECT_TRUE(has(3));
  EXPECT_TRUE(has(4));
  EXPECT_LE(std::filesystem::file_size(path), header_bytes + 3 * record_bytes);
  open(3);
  EXPECT_FALSE(has(2));
  EXPECT_TRUE(has(4));
}

TEST_F(block_file_test, a_held_record_is_not_replaced) {
  open(1);
  EXPECT_TRUE(write(1));
  const auto r = file->find(key(1).hash, key(1).parent, key(1).tokens);
  ASSERT_TRUE(r);
  file->hold(*r);
  EXPECT_FALSE(write(2));
  EXPECT_FALSE(file->unhold(*r, true));
  EXPECT_TRUE(write(2));
}

TEST_F(block_file_test, a_smaller_bound_keeps_what_fits) {
  open(3);
  for (std::uint32_t n : {1u, 2u, 3u}) write(n);
  open(2);
  EXPECT_TRUE(has(1));
  EXPECT_TRUE(has(2));
  EXPECT_FALSE(has(3));
  EXPECT_LE(std::filesystem::file_size(path), header_bytes + 2 * record_bytes);
}

TEST_F(block_file_test, another_models_file_is_refused_with_both_identities) {
  open();
  write(1);
  file.reset();
  auto other = options(3);
  other.kv_identity = {5, 6};
  other.identity_text = "model other";
  auto refused = block_file::open(path, other);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ec::identity_mismatch);
  EXPECT_NE(refused.error().detail.find("model tiny"), std::string::npos);
  EXPECT_NE(refused.error().detail.find("model other"), std::string::npos);
  open();
  EXPECT_TRUE(has(1));  // and left as it was
}

TEST_F(block_file_test, a_strange_file_is_refused_and_left_alone) {
  {
    std::ofstream out(path);
    out << std::string(5000, 'x');
  }
  auto refused = block_file::open(path, options(3));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ec::corrupt_file);
  EXPECT_EQ(std::filesystem::file_size(path), 5000u);
}

TEST_F(block_file_test, short_and_zeroed_files_of_others_are_left_alone) {
  const std::string zeros(8, '\0');
  for (const std::string& text :
       {std::string("x"), std::string("note to self\n"), zeros + "notes", std::string(4095, 'x'),
        zeros + std::string(5000, 'x'), std::string(4096, '\0') + "a disk's image"}) {
    std::ofstream(path, std::ios::binary) << text;
    auto refused = block_file::open(path, options(3));
    ASSERT_FALSE(refused) << text.size();
    EXPECT_EQ(refused.error().code, ec::corrupt_file);
    std::ifstream in(path, std::ios::binary);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), text);
  }
}

TEST_F(block_file_test, what_was_corrupt_does_not_come_back) {
  open();
  for (std::uint32_t n : {1u, 2u, 3u}) EXPECT_TRUE(write(n));
  {  // one byte of the second
    std::fstream raw(path, std::ios::in | std::ios::out | std::ios::binary);
    raw.seekp(header_bytes + record_bytes + 4096 + 17);
    raw.put('\x5a');
  }
  EXPECT_FALSE(has(2));
  ASSERT_EQ(must_erase, record_id{1});
  EXPECT_TRUE(file->erase(*must_erase));
  open();
  EXPECT_EQ(file->stats().recovered, 2u);
  EXPECT_FALSE(has(2));
  EXPECT_FALSE(must_erase);
  EXPECT_TRUE(has(1));
}

TEST_F(block_file_test, two_processes_cannot_share_a_file) {
  open();
  auto second = block_file::open(path, options(3));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ec::address_in_use);
}

TEST_F(block_file_test, cleared_blocks_do_not_come_back) {
  open();
  write(1);
  write(2);
  for (record_id r : file->clear()) EXPECT_TRUE(file->erase(r));
  EXPECT_FALSE(has(1));
  open();
  EXPECT_EQ(file->stats().blocks, 0u);
}

// SIGKILL cuts a write short at any byte. What was written before it is a prefix of erase, payload, header.
TEST_F(block_file_test, truncated_at_any_byte_it_opens_and_never_gives_wrong_bytes) {
  open();
  for (std::uint32_t n : {1u, 2u, 3u}) write(n);
  file.reset();
  for (std::uint64_t cut = std::filesystem::file_size(path) + 1; cut-- > 0;) {
    std::filesystem::resize_file(path, cut);
    open();
    ASSERT_TRUE(file);
    for (std::uint32_t n : {1u, 2u, 3u})
      ASSERT_EQ(has(n), header_bytes + n * record_bytes <= cut) << "cut at " << cut;
    file.reset();
  }
}

TEST_F(block_file_test, a_damaged_byte_anywhere_never_gives_wrong_bytes) {
  open();
  for (std::uint32_t n : {1u, 2u, 3u}) write(n);
  file.reset();
  int damage_found = 0;
  const auto size = std::filesystem::file_size(path);
  for (std::uint64_t at = 0; at < size; ++at) {
    // What is behind the fields of a page is padding: every eighth byte of it will do.
    if (at % 4096 >= 640 && at % 8 != 0) continue;
    const int raw = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    char byte = 0;
    ASSERT_EQ(::pread(raw, &byte, 1, static_cast<off_t>(at)), 1);
    const char flipped = static_cast<char>(byte ^ 0x55);
    ASSERT_EQ(::pwrite(raw, &flipped, 1, static_cast<off_t>(at)), 1);
    auto opened = block_file::open(path, options(3));
    if (opened) {
      file = std::move(*opened);
      int here = 0;
      for (std::uint32_t n : {1u, 2u, 3u}) here += has(n);
      ASSERT_GE(here, at < 4096 ? 0 : 2) << "byte " << at;
      damage_found += here < 3;
      file.reset();
    } else {
      ++damage_found;
      ASSERT_LT(at, 8u) << to_string(opened.error());  // the mark: it is no file of ours
    }
    // A damaged file header makes a new file.
    if (std::filesystem::file_size(path) != size) {
      open();
      for (std::uint32_t n : {1u, 2u, 3u}) write(n);
      file.reset();
    } else {
      ASSERT_EQ(::pwrite(raw, &byte, 1, static_cast<off_t>(at)), 1);
    }
    ::close(raw);
  }
  EXPECT_GT(damage_found, 3 * 192 + 3 * 80 + 300);
}

// A writer that is killed again and again, at any moment, leaves only whole blocks.
TEST_F(block_file_test, a_killed_writer_leaves_only_whole_blocks) {
  std::uint64_t survived = 0;
  for (int round = 0; round < 30; ++round) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto opened = block_file::open(path, options(8));
      if (!opened) ::_exit(1);
      file = std::move(*opened);
      for (std::uint32_t n = static_cast<std::uint32_t>(round) * 7;; ++n) write(n % 50);
    }
    ::usleep(static_cast<useconds_t>(3000 + round * 137));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    open(8);
    std::uint32_t here = 0;
    for (std::uint32_t n = 0; n < 50; ++n) here += has(n);
    ASSERT_EQ(here, file->stats().recovered) << "a block that was found could not be read";
    survived += here;
    file.reset();
  }
  EXPECT_GT(survived, 30u);
}

// A store that is killed and started again at once: the kernel may let go of what it read through io_uring, and so of its
// lock, a moment after its end.
TEST_F(block_file_test, a_killed_readers_file_opens_at_once) {
  // Where its blocks are on a disk: reads are then under way when it is killed.
  path = std::filesystem::temp_directory_path() / (directory.filename().string() + ".kv");
  open(8);
  for (std::uint32_t n = 1; n <= 8; ++n) ASSERT_TRUE(write(n * 10));
  for (int round = 0; round < 20; ++round) {
    file.reset();
    int reads[2];
    ASSERT_EQ(::pipe(reads), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::close(reads[0]);
      auto opened = block_file::open(path, options(8));
      if (!opened) ::_exit(1);
      std::vector<std::vector<std::byte>> bytes(8, std::vector<std::byte>(payload_bytes));
      std::vector<block_file::read_piece> pieces;
      for (std::uint32_t n = 1; n <= 8; ++n) {
        const auto r = (*opened)->find(key(n * 10).hash, key(n * 10).parent, key(n * 10).tokens);
        if (!r) ::_exit(2);
        (*opened)->hold(*r);
        pieces.push_back({*r, key(n * 10).hash, bytes[n - 1]});
      }
      for (;;) {
        for (const auto& ok : (*opened)->read_many(pieces))
          if (!ok) ::_exit(3);
        if (::write(reads[1], "r", 1) != 1) ::_exit(4);
      }
    }
    ::close(reads[1]);
    char one = 0;
    EXPECT_EQ(::read(reads[0], &one, 1), 1);  // it has read, and reads again
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ::close(reads[0]);
    ASSERT_TRUE(WIFSIGNALED(status)) << "it gave up by itself: " << WEXITSTATUS(status);
    open(8);
    ASSERT_TRUE(file);
    for (std::uint32_t n = 1; n <= 8; ++n) ASSERT_TRUE(has(n * 10)) << "block " << n;
  }
}

TEST_F(block_file_test, a_full_disk_is_an_error_and_no_block) {
  open(3);
  EXPECT_TRUE(write(1));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = header_bytes + record_bytes + 4096;  // inside of the second record
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto r = file->claim(key(2));
  ASSERT_TRUE(r);
  const auto ok = file->write(*r, key(2), file->sequence(*r), payload(2));
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, handler);
  EXPECT_FALSE(ok);
  file->written(*r, ok.has_value());
  EXPECT_FALSE(has(2));
  EXPECT_TRUE(has(1));
  open(3);
  EXPECT_FALSE(has(2));
  EXPECT_TRUE(has(1));
}

// Through io_uring where this machine allows it, and without.
TEST_F(block_file_test, many_are_read_at_once_and_each_is_verified) {
  for (bool uring : {true, false}) {
    std::filesystem::remove(path);
    auto with = options(40);
    with.use_io_uring = uring;
    auto opened = block_file::open(path, with);
    ASSERT_TRUE(opened);
    file = std::move(*opened);
    if (!uring) {
      EXPECT_NE(file->reads_by().find("pread"), std::string::npos);
    }
    for (std::uint32_t n = 0; n < 30; ++n) EXPECT_TRUE(write(n * 10));
    {  // one byte of the fourth
      std::fstream raw(path, std::ios::in | std::ios::out | std::ios::binary);
      raw.seekp(header_bytes + 3 * record_bytes + 4096 + 17);
      raw.put('\x5a');
    }
    std::vector<std::vector<std::byte>> bytes(30, std::vector<std::byte>(payload_bytes));
    std::vector<block_file::read_piece> pieces;
    for (std::uint32_t n = 30; n-- > 0;) {
      const auto r = file->find(key(n * 10).hash, key(n * 10).parent, key(n * 10).tokens);
      ASSERT_TRUE(r);
      pieces.push_back({*r, key(n * 10).hash, bytes[n]});
    }
    const auto outcomes = file->read_many(pieces);
    ASSERT_EQ(outcomes.size(), 30u);
    for (std::uint32_t n = 0; n < 30; ++n) {
      EXPECT_EQ(outcomes[29 - n].has_value(), n != 3) << file->reads_by();
      if (n != 3) {
        EXPECT_EQ(bytes[n], payload(n * 10));
      }
    }
    ASSERT_EQ(::truncate(path.c_str(), header_bytes + 20 * record_bytes), 0);
    const auto shorter = file->read_many(pieces);
    for (std::uint32_t n = 0; n < 30; ++n) EXPECT_EQ(shorter[29 - n].has_value(), n != 3 && n < 20);
  }
}

// Makes the kernel answer every io_uring_enter of this process so.
bool refuse_io_uring(std::uint16_t error_number) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_enter, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | std::uint32_t{error_number}),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{std::size(program), program};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

TEST_F(block_file_test, reads_go_on_when_io_uring_takes_no_more) {
  constexpr std::uint32_t blocks = 20;
  open(blocks);
  if (file->reads_by() != "io_uring") GTEST_SKIP() << file->reads_by();
  for (std::uint32_t n = 0; n < blocks; ++n) EXPECT_TRUE(write(n * 10));
  for (const int refusal : {ENOMEM, EAGAIN}) {
    const pid_t child = ::fork();
    if (child == 0) {
      constexpr int no_seccomp = 77;
      if (!refuse_io_uring(static_cast<std::uint16_t>(refusal))) ::_exit(no_seccomp);
      for (int round = 0; round < 2; ++round) {
        std::vector<std::vector<std::byte>> bytes(blocks, std::vector<std::byte>(payload_bytes));
        std::vector<block_file::read_piece> pieces;
        for (std::uint32_t n = 0; n < blocks; ++n)
          pieces.push_back({*file->find(key(n * 10).hash, key(n * 10).parent, key(n * 10).tokens),
                            key(n * 10).hash, bytes[n]});
        const auto outcomes = file->read_many(pieces);
        for (std::uint32_t n = 0; n < blocks; ++n)
          if (!outcomes[n] || bytes[n] != payload(n * 10)) ::_exit(1);
      }
      ::_exit(0);
    }
    ASSERT_GT(child, 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
      GTEST_SKIP() << "system calls cannot be filtered here";
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << refusal << ": " << status;
  }
}

TEST_F(block_file_test, pinned_blocks_are_passed_over_until_their_time_ends) {
  open(4);
  const auto t = time_point{} + std::chrono::seconds(100);
  for (std::uint32_t n : {1u, 2u, 3u, 4u}) EXPECT_TRUE(write(n * 10));
  EXPECT_TRUE(file->pin(key(10).hash, true, t + std::chrono::seconds(5)));
  EXPECT_TRUE(file->pin(key(20).hash, true, time_point::max()));
  EXPECT_FALSE(file->pin(key(30).hash, true, time_point::max())) << "half is pinned";
  EXPECT_FALSE(file->pin(key(99).hash, true, time_point::max())) << "it is not here";
  for (std::uint32_t n = 5; n < 15; ++n) EXPECT_TRUE(write(n * 10));
  EXPECT_TRUE(has(10));
  EXPECT_TRUE(has(20));
  file->expire(t + std::chrono::seconds(6));
  EXPECT_TRUE(file->pin(key(20).hash, false, {}));
  for (std::uint32_t n = 15; n < 25; ++n) EXPECT_TRUE(write(n * 10));
  EXPECT_FALSE(has(10));
  EXPECT_FALSE(has(20));
}

TEST_F(block_file_test, prompts_that_were_written_lately_come_first_each_in_its_order) {
  open(6);
  auto after = [](const block_key& before, std::uint32_t n) {
    block_key k = key(n);
    k.parent = before.hash;
    k.hash = chain_hash(k.parent, k.tokens);
    k.index = before.index + 1;
    return k;
  };
  const auto a0 = key(10), a1 = after(a0, 20), a2 = after(a1, 30), b0 = key(40), b1 = after(b0, 50);
  std::uint32_t n = 0;
  for (const auto& k : {a2, b1, a1, b0, a0}) EXPECT_TRUE(write(k, ++n));
  std::vector<hash128_t> order;
  for (const auto r : file->by_age()) order.push_back(file->key(r).hash);
  EXPECT_EQ(order, (std::vector<hash128_t>{a0.hash, a1.hash, a2.hash, b0.hash, b1.hash}));
  EXPECT_TRUE(file->present(b1.hash));
  EXPECT_FALSE(file->present(key(50).hash));
  EXPECT_FALSE(file->pinned_until(*file->present(b1.hash)));
  EXPECT_TRUE(file->pin(b1.hash, true, time_point::max()));
  EXPECT_EQ(file->pinned_until(*file->present(b1.hash)), time_point::max());
}

}  // namespace
}  // namespace troupe::engine
