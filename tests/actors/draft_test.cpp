// Servers with drafts, in one process, with a tiny random model: guesses change speed, never a token, whoever makes them.
#include <gtest/gtest.h>

#include <caf/io/middleman.hpp>
#include <caf/scoped_actor.hpp>
#include <random>

#include "actors/draft.hpp"
#include "actors/node_agent.hpp"
#include "actors/system.hpp"
#include "model/gguf_write.hpp"
#include "model/remake.hpp"
#include "model/source.hpp"
#include "model/tokenizer.hpp"
#include "model/vocabulary.hpp"
#include "tests/actors/tiny_cluster.hpp"

namespace troupe::actors {
namespace {

using std::chrono::milliseconds;

struct draft_test : tiny_cluster {
  void SetUp() override {
    use_model({.num_hidden_layers = 4, .context = 512});
    ASSERT_TRUE(model::prune_model(path, draft_path, {0, 3}));
  }
  // Guesses are checked whether or not that is faster.
  serve_options options(std::uint32_t drafts) {
    auto o = tiny_cluster::options(0, 1);
    o.num_draft = drafts;
    o.draft_model = draft_path;
    o.engine.speculation.try_draft = false;
    o.engine.speculation.from_text = false;
    o.engine.speculation.always = true;
    return o;
  }
  static std::vector<generation> questions(std::uint32_t max_tokens) {
    std::vector<generation> all;
    for (std::uint64_t i = 0; i < 6; ++i) {
      auto g = ask(i, 5 + i * 23, max_tokens);
      g.sampling.temperature = i % 2 ? 0.9f : 0.0f;
      if (i == 3) g.sampling.repetition_penalty = 1.2f;
      all.push_back(g);
    }
    return all;
  }
  static std::vector<std::vector<token_id>> run(serve_process& s,
                                                const std::vector<generation>& all) {
    std::vector<std::shared_ptr<collecting_sink>> sinks;
    for (const auto& g : all)
      s.service().submit(g, sinks.emplace_back(std::make_shared<collecting_sink>()));
    std::vector<std::vector<token_id>> out;
    for (auto& to : sinks) {
      EXPECT_TRUE(to->wait(milliseconds(60'000)));
      EXPECT_EQ(to->end->reason, engine::finish_reason::length) << to_string(to->end->failure);
      out.push_back(to->tokens);
    }
    return out;
  }
  std::vector<std::vector<token_id>> plain(const std::vector<generation>& all) {
    auto o = tiny_cluster::options(0, 1);
    o.engine.speculation.enabled = false;
    auto s = start(o);
    return s ? run(*s, all) : std::vector<std::vector<token_id>>();
  }
  static double metric(serve_process& s, const std::string& name) {
    const std::string text = s.service().metrics_text(milliseconds(5000));
    double sum = 0;
    for (std::size_t at = 0; (at = text.find("\n" + name, at)) != std::string::npos; ++at) {
      const auto line = text.substr(at + 1, text.find('\n', at + 1) - at - 1);
      if (line[name.size()] == '{' || line[name.size()] == ' ' || name.back() == '"')
        sum += std::strtod(line.c_str() + line.rfind(' ') + 1, nullptr);
    }
    return sum;
  }
  // Of both sources; text is off.
  static double drafted(serve_process& s) { return metric(s, "troupe_spec_drafted_tokens_total"); }

  std::filesystem::path draft_path = dir / "draft.gguf";
};

TEST_F(draft_test, tokens_are_those_of_plain_decoding) {
  const auto all = questions(60);
  const auto expected = plain(all);
  auto s = start(options(2));
  ASSERT_TRUE(s);
  EXPECT_TRUE(eventually([&] {
    EXPECT_EQ(run(*s, all), expected);
    return drafted(*s) > 20;
  })) << "no guess was checked";
  EXPECT_TRUE(eventually([&] { return metric(*s, "troupe_draft_tokens_total") > 0; }));
  EXPECT_TRUE(eventually([&] { return metric(*s, "troupe_draft_sequences") == 0; }))
      << "what has ended is not followed any more";
}

TEST_F(draft_test, the_model_itself_as_draft_is_mostly_right) {
  const auto all = questions(60);
  const auto expected = plain(all);
  auto o = options(1);
  o.draft_model = path;
  auto s = start(o);
  ASSERT_TRUE(s);
  EXPECT_TRUE(eventually([&] {
    EXPECT_EQ(run(*s, all), expected);
    return drafted(*s) > 20;
  }));
  EXPECT_EQ(metric(*s, "troupe_spec_accepted_tokens_total"), drafted(*s));
}

TEST_F(draft_test, a_draft_that_does_not_pay_is_left_alone) {
  auto o = tiny_cluster::options(0, 1);
  o.num_draft = 1;
  o.draft_model = draft_path;  // random layers guess nothing, and passes are short
  o.engine.speculation.from_text = false;
  auto s = start(o);
  ASSERT_TRUE(s);
  const auto all = questions(400);
  EXPECT_TRUE(eventually([&] {
    run(*s, {all.front()});
    return metric(*s, "troupe_spec_draft_guesses_total") > 0;
  })) << "it was not even tried";
  EXPECT_TRUE(eventually([&] {
    run(*s, {all.front()});
    return metric(*s, "troupe_spec_draft_wanted") == 0;
  })) << "it is asked although nothing is won";
}

// -- drafts that lie -------------------------------------------------------------------------------------------------------

// A member of the cluster that answers everything with nonsense.
struct liar {
  liar(const model::loaded_model& model, std::uint16_t cluster_port) {
    node->info.name = "liar";
    node->info.kind = role::draft;
    node->info.start = 4711;
    node->info.host = "127.0.0.1";
    node->info.vocabulary = to_hex(model::vocabulary_digest(**model::tokenizer::make(model)));
    node->connector = product_connector(system);
    node->load_of_store = [] { return node_load(); };
    actor = system.spawn([this](draft_actor::pointer self) { return behave(self); });
    node->info.port = *system.middleman().publish(actor, 0, "127.0.0.1", true);
    auto context = std::make_shared<agent_context>();
    context->node = node;
    context->directory_host = "127.0.0.1";
    context->directory_port = cluster_port;
    context->on_refused = [](const error& e) { ADD_FAILURE() << e.detail; };
    context->on_drained = [] {};
    agent = system.spawn(node_agent, context);
  }
  ~liar() {
    caf::scoped_actor self{system};
    self->send_exit(caf::actor_cast<caf::actor>(agent), caf::exit_reason::kill);
    self->send_exit(caf::actor_cast<caf::actor>(actor), caf::exit_reason::kill);
  }

  draft_guess nonsense(const draft_follow& m) {
    const auto end = static_cast<std::uint32_t>(m.first + m.tokens.size());
    // Ahead by chance: passes of the tiny model end before an answer is back.
    draft_guess g{m.id, m.try_number, end + static_cast<std::uint32_t>(random() % 40), {}, {}};
    const auto length = 1 + random() % 8;
    for (std::uint32_t i = 0; i < length; ++i) {
      g.tokens.push_back(static_cast<std::uint32_t>(random() % 260));
      g.sureness.push_back(255);
    }
    switch (random() % 10) {
      case 0:
        g.tokens[random() % length] = ~0u;
        break;
      case 1:
        g.tokens.clear();
        break;
      case 2:
        g.tokens.assign(1000, 3);
        break;
      case 3:
        g.sureness.pop_back();
        break;
      case 4:
        g.first = ~0u - 3;
        break;
      case 5:
        g.first = static_cast<std::uint32_t>(random());
        break;
      case 6:
        g.id = random();
        break;
      case 7:
        g.try_number += 1;
        break;
      default:
        break;
    }
    return g;
  }
  draft_actor::behavior_type behave(draft_actor::pointer self) {
    return {
        [this, self](const draft_follow& m) {
          ++asked;
          auto reader = caf::actor_cast<draft_reader>(self->current_sender());
          for (int i = 0; i < 3; ++i) self->send(reader, draft_guesses{{nonsense(m), nonsense(m)}});
          self->send(reader, draft_behind{random() % 2 ? m.id : random(), m.try_number,
                                          static_cast<std::uint32_t>(random())});
          if (random() % 3 == 0) self->send(reader, draft_behind{m.id, m.try_number, 0});
        },
        [](const draft_drop&) {},
        [](const metrics_request&) { return std::string(); },
        [](const drain_request&) {},
        [](const draft_happened&) {},
    };
  }

  system_config config{network_settings()};
  caf::actor_system system{config};
  std::shared_ptr<node_services> node = std::make_shared<node_services>();
  std::mt19937_64 random{7};
  std::atomic<int> asked{0};
  draft_actor actor;
  node_agent_actor agent;
};

TEST_F(draft_test, nonsense_changes_no_token) {
  const auto all = questions(60);
  const auto expected = plain(all);
  auto s = start(options(0));
  ASSERT_TRUE(s);
  liar l(*model, s->cluster_port());
  EXPECT_TRUE(eventually([&] {
    EXPECT_EQ(run(*s, all), expected);
    return l.asked > 50 && drafted(*s) > 0;
  })) << l.asked
      << " times asked";
  EXPECT_TRUE(eventually([&] { return metric(*s, "troupe_spec_draft_guesses_total") > 0; }));
}

TEST_F(draft_test, a_draft_of_another_vocabulary_is_refused_with_both) {
  auto s = start(options(0));
  ASSERT_TRUE(s);
  const auto source = model::read_source(path);
  ASSERT_TRUE(source);
  model::metadata other("other");
  for (const auto& [key, v] : source->meta->values()) {
    std::vector<std::string_view> texts(v.strings.begin(), v.strings.end());
    if (key == "tokenizer.ggml.tokens") texts[7] = "another token";
    if (v.type == model::value_type::string) {
      other.set_string(key, v.text);
    } else if (v.type != model::value_type::array) {
      other.set_number(key, v.type, v.bytes);
    } else if (v.element == model::value_type::string) {
      other.set_strings(key, texts);
    } else {
      other.set_numbers(key, v.element, v.bytes);
    }
  }
  std::vector<model::gguf_tensor> tensors;
  for (const auto& t : source->tensors)
    tensors.push_back({t, [&t](const model::gguf_tensor::piece_sink& w) { return w(t.data); }});
  ASSERT_TRUE(model::write_gguf(dir / "other.gguf", other, {}, tensors));
  auto node = node_process::start(stranger("draft", dir / "other.gguf", *s));
  ASSERT_TRUE(node) << to_string(node.error());
  ASSERT_TRUE(eventually([&] { return (*node)->failure().has_value(); }));
  EXPECT_EQ((*node)->failure()->code, ec::identity_mismatch);
  for (const char* part : {"model tiny", "model other", "vocabulary"})
    EXPECT_NE((*node)->failure()->detail.find(part), std::string::npos)
        << (*node)->failure()->detail;
}

}  // namespace
}  // namespace troupe::actors
