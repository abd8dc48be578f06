// oneDNN's tanh RNN behind four C functions, for contenders.py; build_onednn.sh compiles it.
//
// Arrays are float32 in C order: x (T, B, I), Uᵀ (I, H), Wᵀ (H, H), b (H), h and dh (T, B, H), h0 (B, H); U and W are
// transposed against pyrnn's, since oneDNN multiplies from the other side and so packs them faster.
// A call includes what a user pays: putting the weights from such arrays into the library's own format,
// clearing the gradients that oneDNN adds to, and getting these back.
#include <oneapi/dnnl/dnnl.hpp>
#include <cstring>

using namespace dnnl;
using tag = memory::format_tag;

namespace
{
struct Weights { // in the caller's format and in that which the primitive chose
    memory plain, chosen;
    reorder move;
    Weights(const memory &plain, const memory::desc &desc, bool out)
        : plain(plain), chosen(desc, plain.get_engine()), move(out ? reorder(chosen, plain) : reorder(plain, chosen))
    {
    }
    void in(stream &s) { move.execute(s, plain, chosen); }
    void clear() { std::memset(chosen.get_data_handle(), 0, chosen.get_desc().get_size()); }
    void out(stream &s) { move.execute(s, chosen, plain); }
};

struct Rnn {
    engine cpu{engine::kind::cpu, 0};
    stream s{cpu};
    memory x, U, W, b, h0, dh, h, dx, dU, dW, db, dh0, last, dlast, workspace;
    vanilla_rnn_forward::primitive_desc forward_desc;
    vanilla_rnn_backward::primitive_desc backward_desc;

    static memory::desc desc(memory::dims dims, tag t) { return {dims, memory::data_type::f32, t}; }
    memory wrap(memory::dims dims, tag t, float *p) { return memory(desc(dims, t), cpu, p); }

    Rnn(int T, int B, int I, int H, float *const *p)
        : x(wrap({T, B, I}, tag::tnc, p[0])), U(wrap({1, 1, I, 1, H}, tag::ldigo, p[1])),
          W(wrap({1, 1, H, 1, H}, tag::ldigo, p[2])), b(wrap({1, 1, 1, H}, tag::ldgo, p[3])),
          h0(wrap({1, 1, B, H}, tag::ldnc, p[4])), dh(wrap({T, B, H}, tag::tnc, p[5])),
          h(wrap({T, B, H}, tag::tnc, p[6])), dx(wrap({T, B, I}, tag::tnc, p[7])),
          dU(wrap({1, 1, I, 1, H}, tag::ldigo, p[8])), dW(wrap({1, 1, H, 1, H}, tag::ldigo, p[9])),
          db(wrap({1, 1, 1, H}, tag::ldgo, p[10])), dh0(wrap({1, 1, B, H}, tag::ldnc, p[11])), last(h0.get_desc(), cpu),
          dlast(h0.get_desc(), cpu)
    {
        const auto any_U = desc({1, 1, I, 1, H}, tag::any), any_W = desc({1, 1, H, 1, H}, tag::any);
        const auto X = x.get_desc(), S = h0.get_desc(), O = h.get_desc(), bias = b.get_desc();
        const auto tanh = algorithm::eltwise_tanh;
        const auto right = rnn_direction::unidirectional_left2right;
        forward_desc = {cpu, prop_kind::forward_training, tanh, right, X, S, any_U, any_W, bias, O, S};
        backward_desc = {
            cpu, prop_kind::backward, tanh, right, X, S, any_U, any_W, bias, O, S, X, S, any_U, any_W, bias, O,
            S,   forward_desc};
        workspace = memory(forward_desc.workspace_desc(), cpu);
        std::memset(dlast.get_data_handle(), 0, S.get_size());
    }
};

struct Network : Rnn {
    Weights U_forward, W_forward, U_backward, W_backward, U_gradient, W_gradient;
    vanilla_rnn_forward forward_primitive;
    vanilla_rnn_backward backward_primitive;

    Network(int T, int B, int I, int H, float *const *p)
        : Rnn(T, B, I, H, p), U_forward(U, forward_desc.weights_layer_desc(), false),
          W_forward(W, forward_desc.weights_iter_desc(), false),
          U_backward(U, backward_desc.weights_layer_desc(), false),
          W_backward(W, backward_desc.weights_iter_desc(), false),
          U_gradient(dU, backward_desc.diff_weights_layer_desc(), true),
          W_gradient(dW, backward_desc.diff_weights_iter_desc(), true), forward_primitive(forward_desc),
          backward_primitive(backward_desc)
    {
    }

    void forward()
    {
        U_forward.in(s), W_forward.in(s);
        forward_primitive.execute(s, {{DNNL_ARG_SRC_LAYER, x},
                                      {DNNL_ARG_SRC_ITER, h0},
                                      {DNNL_ARG_WEIGHTS_LAYER, U_forward.chosen},
                                      {DNNL_ARG_WEIGHTS_ITER, W_forward.chosen},
                                      {DNNL_ARG_BIAS, b},
                                      {DNNL_ARG_DST_LAYER, h},
                                      {DNNL_ARG_DST_ITER, last},
                                      {DNNL_ARG_WORKSPACE, workspace}});
        s.wait();
    }
    void both()
    {
        forward();
        U_backward.in(s), W_backward.in(s);
        U_gradient.clear(), W_gradient.clear();
        std::memset(db.get_data_handle(), 0, db.get_desc().get_size());
        backward_primitive.execute(s, {{DNNL_ARG_SRC_LAYER, x},
                                       {DNNL_ARG_SRC_ITER, h0},
                                       {DNNL_ARG_WEIGHTS_LAYER, U_backward.chosen},
                                       {DNNL_ARG_WEIGHTS_ITER, W_backward.chosen},
                                       {DNNL_ARG_BIAS, b},
                                       {DNNL_ARG_DST_LAYER, h},
                                       {DNNL_ARG_DST_ITER, last},
                                       {DNNL_ARG_WORKSPACE, workspace},
                                       {DNNL_ARG_DIFF_SRC_LAYER, dx},
                                       {DNNL_ARG_DIFF_SRC_ITER, dh0},
                                       {DNNL_ARG_DIFF_WEIGHTS_LAYER, U_gradient.chosen},
                                       {DNNL_ARG_DIFF_WEIGHTS_ITER, W_gradient.chosen},
                                       {DNNL_ARG_DIFF_BIAS, db},
                                       {DNNL_ARG_DIFF_DST_LAYER, dh},
                                       {DNNL_ARG_DIFF_DST_ITER, dlast}});
        U_gradient.out(s), W_gradient.out(s);
        s.wait();
    }
};
} // namespace

extern "C" {
// NULL if oneDNN cannot. The arrays must live as long as the network.
void *rnn_new(int T, int B, int I, int H, float *x, float *U, float *W, float *b, float *h0, float *dh, float *h,
              float *dx, float *dU, float *dW, float *db, float *dh0)
{
    float *const arrays[] = {x, U, W, b, h0, dh, h, dx, dU, dW, db, dh0};
    try {
        return new Network(T, B, I, H, arrays);
    } catch (const error &) {
        return nullptr;
    }
}
void rnn_forward(void *network) { static_cast<Network *>(network)->forward(); }
void rnn_both(void *network) { static_cast<Network *>(network)->both(); }
void rnn_delete(void *network) { delete static_cast<Network *>(network); }
}
