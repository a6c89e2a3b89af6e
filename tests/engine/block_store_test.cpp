#include "engine/kv_store/block_store.hpp"

#include <gtest/gtest.h>

#include "engine/prefix_index.hpp"

namespace troupe::engine {
namespace {

constexpr std::uint32_t block_tokens = 4;

// A prompt as the store sees it: chained hashes and tokens of its full blocks.
struct prompt {
  prompt(std::uint32_t first, std::uint32_t blocks, std::string_view salt = {}) {
    for (std::uint32_t i = 0; i < blocks * block_tokens; ++i) tokens.push_back(first + i);
    rehash(salt);
  }
  void append(std::uint32_t first, std::uint32_t blocks) {
    for (std::uint32_t i = 0; i < blocks * block_tokens; ++i) tokens.push_back(first + i);
    rehash({});
  }
  void rehash(std::string_view salt) {
    root = root_hash({1, 2}, salt);
    chain.clear();
    for (std::uint32_t i = 0; i < tokens.size() / block_tokens; ++i)
      chain.push_back(chain_hash(i == 0 ? root : chain.back(), of(i)));
  }
  std::vector<token_id> of(std::uint32_t i) const {
    return {tokens.begin() + i * block_tokens, tokens.begin() + (i + 1) * block_tokens};
  }
  block_key key(std::uint32_t i) const {
    return {chain[i], i == 0 ? root : chain[i - 1], of(i), i, tokens.size()};
  }
  hash128_t root;
  std::vector<token_id> tokens;
  std::vector<hash128_t> chain;
};

struct block_store_test : ::testing::Test {
  void make(std::uint32_t blocks, std::chrono::seconds ttl = std::chrono::seconds(0)) {
    store.emplace(block_store_options{blocks, block_tokens, ttl, std::chrono::milliseconds(1000)});
  }
  void TearDown() override {
    if (store) {
      EXPECT_EQ(store->check_invariants(), "");
    }
  }
  std::optional<block_id> find(const prompt& p, std::uint32_t i) const {
    return store->find(p.chain[i], p.key(i).parent, p.of(i));
  }
  std::uint32_t hits(const prompt& p) const {
    std::uint32_t n = 0;
    while (n < p.chain.size() && find(p, n)) ++n;
    return n;
  }
  void request(const prompt& p) { store->requested(p.chain, p.tokens.size(), now); }
  std::uint32_t insert(const prompt& p) {
    std::uint32_t taken = 0;
    for (std::uint32_t i = 0; i < p.chain.size(); ++i)
      if (auto b = store->reserve(p.key(i), now)) {
        store->filled(*b, true, now);
        ++taken;
      }
    EXPECT_EQ(store->check_invariants(), "");
    return taken;
  }
  std::optional<block_store> store;
  time_point now{std::chrono::hours(1)};
};

TEST_F(block_store_test, what_is_worth_most_comes_first_and_after_what_it_follows) {
  make(32);
  const prompt old(0, 4), recent(100, 4), pinned(200, 4);
  for (const auto* p : {&pinned, &old, &recent}) {
    request(*p);
    EXPECT_EQ(insert(*p), 4u);
  }
  ASSERT_TRUE(store->pin(pinned.chain[2], true, now + std::chrono::seconds(9)));
  std::vector<hash128_t> order;
  for (const block_id b : store->by_worth()) order.push_back(store->key(b).hash);
  std::vector<hash128_t> expected(pinned.chain.begin(), pinned.chain.begin() + 3);
  expected.insert(expected.end(), recent.chain.begin(), recent.chain.end());
  expected.insert(expected.end(), old.chain.begin(), old.chain.end());
  expected.push_back(pinned.chain[3]);  // behind the pin: as old as its prompt
  EXPECT_EQ(order, expected);
  const auto end = store->pinned_until(*store->present(pinned.chain[2]));
  EXPECT_EQ(end, now + std::chrono::seconds(9));
  EXPECT_FALSE(store->pinned_until(*store->present(old.chain[0])));
  EXPECT_FALSE(store->present(prompt(300, 1).chain[0]));
}

TEST_F(block_store_test, a_prefix_is_found_block_by_block_and_stored_once) {
  make(16);
  const prompt a(0, 5);
  request(a);
  EXPECT_EQ(insert(a), 5u);
  EXPECT_EQ(insert(a), 0u);  // each is here already
  EXPECT_EQ(hits(a), 5u);
  prompt longer(0, 5);
  longer.append(100, 3);
  EXPECT_EQ(hits(longer), 5u);
  EXPECT_EQ(hits(prompt(1, 5)), 0u);
  EXPECT_EQ(store->stats().blocks, 5u);
}

TEST_F(block_store_test, another_salt_never_hits) {
  make(16);
  insert(prompt(0, 4, "alice"));
  EXPECT_EQ(hits(prompt(0, 4, "alice")), 4u);
  EXPECT_EQ(hits(prompt(0, 4, "bob")), 0u);
  EXPECT_EQ(hits(prompt(0, 4)), 0u);
}

TEST_F(block_store_test, an_equal_hash_with_other_tokens_or_another_parent_is_not_a_hit) {
  make(4);
  const prompt a(0, 2);
  insert(a);
  EXPECT_TRUE(store->find(a.chain[0], a.root, a.of(0)));
  EXPECT_FALSE(store->find(a.chain[0], a.root, prompt(50, 1).of(0)));
  EXPECT_TRUE(store->find(a.chain[1], a.chain[0], a.of(1)));
  EXPECT_FALSE(store->find(a.chain[1], a.root, a.of(1)));
}

TEST_F(block_store_test, nothing_is_found_before_it_is_filled_and_a_failed_pull_leaves_no_trace) {
  make(2);
  const prompt a(0, 1);
  const auto b = store->reserve(a.key(0), now);
  ASSERT_TRUE(b);
  EXPECT_EQ(hits(a), 0u);
  EXPECT_FALSE(store->reserve(a.key(0), now));  // once
  store->filled(*b, false, now);
  EXPECT_EQ(hits(a), 0u);
  EXPECT_EQ(store->stats().failed, 1u);
  const auto again = store->reserve(a.key(0), now);
  ASSERT_TRUE(again);
  store->filled(*again, true, now);
  EXPECT_EQ(hits(a), 1u);
}

TEST_F(block_store_test, each_life_of_a_block_is_another_generation) {
  make(1);
  const prompt a(0, 1), b(10, 1);
  request(a);
  insert(a);
  const auto first = store->generation(0);
  request(b);
  ASSERT_EQ(insert(b), 1u);
  EXPECT_GT(store->generation(0), first);
}

TEST_F(block_store_test, leaves_go_first_so_that_prefixes_stay_reachable) {
  make(6);
  const prompt a(0, 6);
  request(a);
  insert(a);
  const prompt b(100, 3);
  request(b);
  EXPECT_EQ(insert(b), 3u);
  EXPECT_EQ(hits(a), 3u);  // its tail went
  EXPECT_EQ(hits(b), 3u);
  EXPECT_EQ(store->stats().evictions, 3u);
}

TEST_F(block_store_test, what_a_reader_holds_is_not_evicted_and_a_lease_ends_by_itself) {
  make(3);
  const prompt a(0, 3), b(100, 3);
  request(a);
  insert(a);
  std::vector<block_id> held;
  for (std::uint32_t i = 0; i < 3; ++i) held.push_back(*find(a, i));
  store->lease(7, held, now);
  request(b);
  EXPECT_EQ(insert(b), 0u);
  EXPECT_EQ(store->clear(), 0u);
  EXPECT_EQ(hits(a), 3u);
  now += std::chrono::milliseconds(1000);
  EXPECT_EQ(store->expire(now), std::vector<std::uint64_t>{7});  // the reader vanished
  EXPECT_TRUE(store->expire(now).empty());
  EXPECT_EQ(store->stats().leased, 0u);
  EXPECT_EQ(insert(b), 3u);
  store->release(7);  // late and unknown: nothing happens
}

TEST_F(block_store_test, pinned_blocks_outlive_every_newcomer_until_unpinned) {
  make(4);
  const prompt a(0, 2), b(100, 4);
  request(a);
  insert(a);
  for (const auto& h : a.chain) EXPECT_TRUE(store->pin(h, true));
  EXPECT_FALSE(store->pin(b.chain[0], true));
  request(b);
  EXPECT_EQ(insert(b), 2u);
  EXPECT_EQ(hits(a), 2u);
  EXPECT_FALSE(store->pin(b.chain[0], true)) << "half of the blocks are pinned";
  for (const auto& h : a.chain) store->pin(h, false);
  EXPECT_EQ(insert(b), 2u);
}

TEST_F(block_store_test, pins_end_with_their_time) {
  make(8, std::chrono::seconds(10));
  const prompt a(0, 3);
  insert(a);
  for (const auto& h : a.chain) EXPECT_TRUE(store->pin(h, true, now + std::chrono::seconds(30)));
  now += std::chrono::seconds(20);
  store->expire(now);
  EXPECT_EQ(hits(a), 3u) << "the TTL does not count while they are pinned";
  EXPECT_EQ(store->stats().pinned, 3u);
  now += std::chrono::seconds(10);
  store->expire(now);
  EXPECT_EQ(store->stats().pinned, 0u);
  EXPECT_EQ(hits(a), 0u);
}

TEST_F(block_store_test, unused_blocks_expire) {
  make(8, std::chrono::seconds(10));
  const prompt a(0, 3), b(100, 3);
  insert(a);
  now += std::chrono::seconds(6);
  insert(b);
  request(a);
  now += std::chrono::seconds(6);
  store->expire(now);
  EXPECT_EQ(hits(a), 3u);  // used since
  now += std::chrono::seconds(5);
  store->expire(now);
  EXPECT_EQ(hits(a), 0u);
  EXPECT_EQ(hits(b), 0u);
  EXPECT_EQ(store->stats().expired, 6u);
}

// Conversations that come back against a stream of prompts that never do: the model learns which is which, where LRU
// (whose order the newcomers' flood decides) keeps nothing.
TEST_F(block_store_test, it_learns_what_comes_back) {
  make(256);
  std::uint64_t hit = 0, asked = 0;
  for (std::uint32_t round = 0; round < 40; ++round) {
    for (std::uint32_t c = 0; c < 10; ++c) {
      const prompt conversation(1'000'000 + c * 10'000, 12);
      request(conversation);
      if (round >= 20) {
        hit += hits(conversation);
        asked += conversation.chain.size();
      }
      insert(conversation);
      for (std::uint32_t i = 0; i < 4; ++i) {
        const prompt once((round * 1000 + c * 10 + i) * 100, 12);
        request(once);
        insert(once);
      }
    }
  }
  // 40 one-time prompts of 12 blocks pass between two uses: LRU of 256 blocks would hit nothing.
  EXPECT_GT(static_cast<double>(hit) / static_cast<double>(asked), 0.5);
}

// One prompt came back at the age of the oldest. Those that are nearly as old and still wait say that this is rare; a model that counts only who has passed that age would keep all of them for it.
TEST(reuse_model, those_that_still_wait_count_at_their_age) {
  constexpr std::uint64_t brief = 100, lengthy = 100'000;
  reuse_model model;
  auto ask = [&](std::uint64_t name, std::uint64_t tokens) {
    const hash128_t chain[] = {{tokens, name}};
    model.requested(chain, tokens);
  };
  for (std::uint64_t i = 0; i < 425; ++i) {
    ask(i, brief);  // never again, but for the first at the end
    const bool again = i >= 50 && i % 10 == 0;
    ask(again ? i - 50 : i, lengthy);  // one in ten after 100 requests
  }
  ask(0, brief);
  for (std::uint64_t i = 1000; i < 1130; ++i) ask(i, brief);  // until it has learned
  EXPECT_LT(model.rank(reuse_model::class_of(1, brief), 900),
            model.rank(reuse_model::class_of(1, lengthy), 50));
}

TEST_F(block_store_test, random_histories_keep_the_invariants) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    make(32, std::chrono::seconds(30));
    std::uint64_t state = seed * 0x9E3779B97F4A7C15ull;
    auto next = [&](std::uint64_t n) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      return state % n;
    };
    std::vector<block_id> filling;
    for (int step = 0; step < 2000; ++step) {
      now += std::chrono::milliseconds(next(200));
      prompt p(static_cast<std::uint32_t>(next(4)) * 1000, 2);
      p.append(static_cast<std::uint32_t>(5000 + next(6) * 1000),
               1 + static_cast<std::uint32_t>(next(6)));
      const auto at = static_cast<std::uint32_t>(next(p.chain.size()));
      switch (next(7)) {
        case 0:
          request(p);
          break;
        case 1:
        case 2:
          if (auto b = store->reserve(p.key(at), now, next(4) == 0)) filling.push_back(*b);
          break;
        case 3:
          if (filling.empty()) break;
          store->filled(filling.back(), next(5) != 0, now);
          filling.pop_back();
          break;
        case 4:
          if (auto b = find(p, at)) store->lease(next(5), std::vector<block_id>{*b}, now);
          break;
        case 5:
          store->release(next(5));
          break;
        case 6:
          if (next(20) == 0)
            store->clear();
          else
            store->expire(now);
          if (const auto b = store->present(p.chain[at]); b && next(4) == 0) store->drop(*b);
          store->pin(p.chain[at], next(8) == 0);
      }
      ASSERT_EQ(store->check_invariants(), "") << "seed " << seed << ", step " << step;
    }
  }
}

}  // namespace
}  // namespace troupe::engine
