// A whole server in this process, with real actors, UCX, engines and a tiny random model.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "actors/cluster.hpp"
#include "tests/model/tiny_gguf.hpp"

namespace troupe::actors {

// Keeps what a request brings.
class collecting_sink : public generation_sink {
 public:
  void on_tokens(std::vector<engine::token_output> t) override {
    std::lock_guard lock(mutex_);
    for (auto& x : t) tokens.push_back(x.token);
  }
  void on_finished(generation_end e) override {
    std::lock_guard lock(mutex_);
    end = std::move(e);
    ended_.notify_all();
  }
  bool wait(std::chrono::milliseconds longest = std::chrono::milliseconds(60'000)) {
    std::unique_lock lock(mutex_);
    return ended_.wait_for(lock, longest, [this] { return end.has_value(); });
  }
  std::vector<token_id> tokens;
  std::optional<generation_end> end;

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
};

struct tiny_cluster : ::testing::Test {
  void SetUp() override { use_model({.context = 512}); }
  void use_model(const testing::tiny_model& m) {
    testing::write_tiny_gguf(path, m);
    auto opened = model::open_model(path);
    ASSERT_TRUE(opened) << to_string(opened.error());
    model = *opened;
  }
  serve_options options(std::uint32_t prefill, std::uint32_t decode, std::uint32_t stores = 0) {
    serve_options o;
    o.model = path;
    o.model_name = "tiny";
    o.num_prefill = prefill;
    o.num_decode = decode;
    o.num_kv_store = stores;
    o.single_process = true;
    o.runner.num_threads = 1;
    o.engine.num_kv_blocks = 128;
    o.engine.max_num_batched_tokens = 128;
    o.engine.max_prefill_chunk = 32;
    o.store.memory_bytes = 8 << 20;
    return o;
  }
  template <class Condition>
  static bool eventually(Condition condition) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(60'000);
    while (std::chrono::steady_clock::now() < until) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return false;
  }
  // Ready, or null and a failure.
  std::unique_ptr<serve_process> start(const serve_options& o) {
    auto s = serve_process::start(o, model);
    EXPECT_TRUE(s) << to_string(s.error());
    if (!s) return nullptr;
    const bool ready = eventually([&] {
      std::uint32_t n = 0;
      for (const auto& node : (*s)->service().status().nodes)
        n += node.state == "ready" && node.role != "gateway";
      return n == o.num_prefill + o.num_decode + o.num_kv_store + o.num_draft;
    });
    EXPECT_TRUE(ready);
    return ready ? std::move(*s) : nullptr;
  }
  // The same seed, the same prompt.
  static generation ask(std::uint64_t seed, std::size_t prompt_tokens, std::uint32_t max_tokens) {
    generation g;
    testing::test_random random{seed};
    for (std::size_t i = 0; i < prompt_tokens; ++i)
      g.prompt.push_back(static_cast<token_id>(3 + random.next() % 256));
    g.sampling.temperature = 0;
    g.sampling.seed = 42;
    g.sampling.max_tokens = max_tokens;
    g.sampling.ignore_eos = true;
    g.timeout = std::chrono::milliseconds(30'000);
    return g;
  }

  // A node of another model that wants to join.
  static node_options stranger(const std::string& role, const std::filesystem::path& other,
                               const serve_process& s) {
    node_options n;
    n.role = role;
    n.model = other;
    n.model_name = "other";
    n.runner.num_threads = 1;
    n.engine.num_kv_blocks = 64;
    n.join_host = "127.0.0.1";
    n.join_port = s.cluster_port();
    return n;
  }

  testing::temporary_directory dir;
  std::filesystem::path path = dir / "tiny.gguf";
  std::shared_ptr<const model::loaded_model> model;
};

}  // namespace troupe::actors
